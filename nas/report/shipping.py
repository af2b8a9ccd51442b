"""What the report says of a model that the search began with, and of the files that networks were exported to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from nas.errors import RunError
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION
from nas.report import markup
from nas.report.markup import Column, Row
from nas.report.reading import ReportData
from nas.report.words import MISSING, count, figure_of, milliseconds, words, worth_text
from search_spaces.json_file import check_fields

_COLUMNS = [
    Column("format"),
    Column("file"),
    Column("size, MB", True),
    Column("accuracy", True),
    Column("latency here, ms", True),
    Column("logits differ by", True),
    Column("delegated", True),
]

_HEADS = {
    "given": "came with the weights",
    "fitted": "fitted to the features of the training images",
    "random": "drawn at random",
    "components": "none: its outputs are components of features",
}
_WORTH = {
    "knn": "20 nearest neighbours, frozen features",
    "probe": "fitted classifier, frozen features",
    "fine_tuned": "fine-tuned as a whole",
}
"""What the model was worth before anything was searched, on the search part."""


class _Model(TypedDict, total=False):
    params: int
    macs: int
    accuracy: float | None
    mean_average_precision: float
    knn: float | None
    probe: float | None
    latency: dict[str, dict[str, Any]]
    criteria: dict[str, Any]


class _File(TypedDict, total=False):
    bytes: int
    accuracy: float
    mean_average_precision: float
    fidelity: float
    difference: float
    latency: dict[str, Any] | None
    delegate: dict[str, Any] | None


class _Files(TypedDict, total=False):
    files: dict[str, dict[str, Any]]


def shipping_section(run: ReportData) -> str:
    """The original model and the exported files; empty where there is neither.

    Raises:
        RunError: What ``front.json`` says of them is damaged.
    """
    try:
        return _shipping(run)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"`{run.path}`: what is known of the exported files is damaged: {error}") from error


def _shipping(run: ReportData) -> str:
    model = run.section("model")
    check_fields(_Model, model)
    parts = [_original(model)] if model else []
    for pick, entry in run.section("formats").items():
        check_fields(_Files, entry)
        files: Mapping[str, Mapping[str, Any]] = entry.get("files", {})
        for facts in files.values():
            check_fields(_File, facts)
        rows = [_row(name, facts) for name, facts in files.items()]
        notes = [f"{name} is {facts['verdict']}." for name, facts in files.items() if "verdict" in facts]
        notes += [f"{name}: {facts['not_measured']}." for name, facts in files.items() if "not_measured" in facts]
        judged = next((facts for facts in files.values() if "part" in facts), None)
        if judged is not None:
            notes.append(f"{figure_of(judged)}: on {judged['images']} images, {judged['part']}.")
        title = f"Files of the network `{pick}`, trial {entry.get('number', MISSING)}"
        parts += [f"<h3>{markup.escape(title)}</h3>", markup.table(_COLUMNS, rows)]
        parts += [markup.paragraph(" ".join(notes), "note")] if notes else []
    return markup.section("From the model to the file", *parts) if parts else ""


def _original(model: Mapping[str, Any]) -> str:
    figure = AVERAGE_PRECISION if AVERAGE_PRECISION in model else ACCURACY
    accuracy = model.get(figure)
    facts = {
        "original model": str(model.get("name", MISSING)),
        "weights": str(model.get("weights", MISSING)),
        "licence of the weights": str(model.get("license") or MISSING),
        "parameters": count(model["params"]) if "params" in model else MISSING,
        "MACs": count(model["macs"]) if "macs" in model else MISSING,
        "classifier": _HEADS.get(str(model.get("head")), MISSING),
        **{title: f"{model[name]:.2%}" for name, title in _WORTH.items() if model.get(name) is not None},
        f"{words(figure)} on the search part": f"{accuracy:.2%}" if accuracy is not None else MISSING,
        "taught the networks inside it": "yes" if model.get("teaches") else "no",
    }
    for target, latency in model.get("latency", {}).items():
        facts[f"predicted latency on {target}"] = f"{milliseconds(latency['ms'])} ms"
    for axis, criterion in model.get("criteria", {}).items():
        facts[f"importance of {axis}"] = str(criterion)
    return markup.pairs(facts)


def _row(name: str, facts: Mapping[str, Any]) -> Row:
    latency, delegate = facts.get("latency"), facts.get("delegate")
    return Row(
        (
            name,
            str(facts.get("file", MISSING)),
            f"{facts['bytes'] / 1e6:.2f}" if "bytes" in facts else MISSING,
            worth_text(facts) or MISSING,
            milliseconds(latency["ms"]) if latency else MISSING,
            f"{facts['difference']:.1e}" if "difference" in facts else MISSING,
            f"{delegate['nodes']} of {delegate['all_nodes']}" if delegate else MISSING,
        )
    )
