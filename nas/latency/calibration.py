"""A calibrated table from a user's own file of published figures."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from latency_tables.calibrate import Sample
from latency_tables.calibrated_table import calibrated_table
from latency_tables.calibration_form import CalibratedDevice, ranked_forms
from latency_tables.errors import CalibrationError, TableError
from latency_tables.figures import (
    CONDITIONS,
    Figures,
    RebuiltNetwork,
    design_of,
    read_figures,
    rebuild_figures,
    rebuild_published,
)
from latency_tables.published_models import PUBLISHED_MODELS
from latency_tables.table import BYTES_PER_ELEMENT, SCHEMA, LatencyTable
from latency_tables.targets import LOCAL, target_names, user_table_path
from nas.errors import UsageError
from nas.events import Progress, StageProgress, ignore
from nas.latency.families import Descent, one_per_network, with_families
from nas.latency.request import check_name
from nas.networks.named import NamedNetwork, timm_network
from nas.networks.resolve import resolve_network
from search_spaces.graph import OpGraph
from search_spaces.timm_models import PREFIX, TimmReference

ONNX = ".onnx"

_STATUS = "nobody touched the device: fitted to whole-network figures, for ranking and coarse budgets"


@dataclass(frozen=True)
class CalibrationResult:
    """A table and what became of the figures.

    Attributes:
        path: Where the table was written.
        left_out: A sentence for each figure that is not in the fit.
        ignored: Columns that mean nothing here.
    """

    table: LatencyTable
    path: Path
    left_out: tuple[str, ...]
    ignored: tuple[str, ...]


def calibrate_target(
    figures_path: Path, name: str, conditions: Mapping[str, str], progress: Progress = ignore
) -> CalibrationResult:
    """Fit a table to a CSV file of figures and keep it among this machine's tables.

    Args:
        figures_path: As `latency_tables.figures.read_figures` takes it.
        name: Name of the new target.
        conditions: Any of device, processor, runtime, precision and threads, where the file does not say them; empty
            texts say nothing.
        progress: Receives `nas.events.StageProgress`.

    Raises:
        UsageError: The name is taken or no name, or a condition is missing or contradicts the file.
        CalibrationError: The file is broken, or its figures do not determine a table; ``left_out`` figures are named.
    """
    path = _free_path(name)
    figures = read_figures(figures_path)
    given = {key: _condition(figures, figures_path, key, conditions.get(key, "")) for key in CONDITIONS}
    header, assumed = _header(name, given)
    rebuilt: dict[str, RebuiltNetwork] = {}

    def rebuild(model: str, image_side: int | None) -> RebuiltNetwork:
        rebuilt[model] = network = _rebuild(model, image_side)
        return network

    samples, left_out = rebuild_figures(
        figures.rows,
        rebuild,
        header["precision"],
        progress=lambda done: progress(StageProgress("rebuild networks", done, len(figures.rows))),
    )
    samples, given_again = one_per_network(samples)
    left_out += given_again
    descents = {
        row.name: Descent(row.family, rebuilt[row.model].family, rebuilt[row.model].design)
        for row in figures.rows
        if row.model in rebuilt
    }
    samples = with_families(samples, descents)
    if any(not each.stated and each.design.endswith(ONNX) for each in descents.values()):
        assumed.append(
            "the families of ONNX files are not stated, each file taken as one of its own: where they are siblings, the"
            " errors below are too small; a column `family` says it"
        )
    notes = [*assumed, *(f"left out: {sentence}" for sentence in left_out)]
    table = _fitted(header, samples, notes)
    table.save(path)
    return CalibrationResult(table, path, tuple(left_out), figures.ignored)


def _fitted(header: Mapping[str, Any], samples: Sequence[Sample], notes: Sequence[str]) -> LatencyTable:
    device = CalibratedDevice(
        device=header["device"]["name"],
        runtime=header["runtime"]["name"],
        provider="",
        is_cpu="CPU" in header["device"]["processor"],
    )
    known = [
        CalibratedDevice.of_table(info.table)
        for info in target_names()
        if info.table is not None and not info.alias_of and info.kind == "calibrated"
    ]
    try:
        return calibrated_table(header, samples, ranked_forms(device, known), notes)
    except CalibrationError as error:
        left_out = [note for note in notes if note.startswith("left out: ")]
        raise CalibrationError("; ".join([str(error), *left_out]), error.hint) from error


def _free_path(name: str) -> Path:
    check_name(name)
    if name == LOCAL:
        raise UsageError(f"target name `{LOCAL}` stands for this machine", "choose another `--name`")
    path = user_table_path(name)
    if path.exists():
        try:
            kind = LatencyTable.load(path).provenance.kind
        except TableError:
            return path
        if kind != "calibrated":
            raise UsageError(
                f"target `{name}` has a {kind} table, which calibration would replace: `{path}`",
                "choose another `--name`",
            )
    return path


def _condition(figures: Figures, path: Path, name: str, option: str) -> str:
    column = figures.condition(name, path)
    if option and column and option != column:
        raise UsageError(f"`--{name} {option}` contradicts the column `{name}` of `{path}`, which says `{column}`")
    return option or column


def _header(name: str, given: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """The table's fields that the fit does not decide, and a sentence for each that was assumed."""
    for required in ("runtime", "precision"):
        if not given[required]:
            raise UsageError(f"the figures do not say their {required}", f"add a column `{required}` or `--{required}`")
    if given["precision"] not in BYTES_PER_ELEMENT:
        raise UsageError(f"precision `{given['precision']}`: expected {', '.join(BYTES_PER_ELEMENT)}")
    threads = given["threads"] or "1"
    if not threads.isdecimal() or int(threads) < 1:
        raise UsageError(f"threads `{threads}`: expected a whole number from 1 on")
    assumed = [] if given["threads"] else ["threads are not stated, taken as 1"]
    assumed += [] if given["processor"] else ["the processor is not stated, taken as the CPU"]
    header = {
        "schema": SCHEMA,
        "name": name,
        "unit": "ms",
        "device": {"name": given["device"] or name, "processor": given["processor"] or "CPU"},
        "runtime": {"name": given["runtime"], "fusion": "xnnpack"},
        "precision": given["precision"],
        "threads": int(threads),
        "provenance": {
            "kind": "calibrated",
            "status": _STATUS,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "tool_version": f"nas-vit {version('nas-vit')}, timm {version('timm')}, torch {version('torch')}",
        },
    }
    return header, assumed


def _rebuild(model: str, image_side: int | None) -> RebuiltNetwork:
    if model in PUBLISHED_MODELS:
        return rebuild_published(model, image_side)
    try:
        network = resolve_network(model, image_side)
        return RebuiltNetwork.of_graph("", _deployed_graph(network), _design(network))
    except (RuntimeError, AssertionError) as error:
        raise CalibrationError(str(error)) from error


def _design(network: NamedNetwork) -> str:
    if network.onnx_path is not None:
        return network.onnx_path.name
    if network.architecture is not None and network.architecture.space.startswith(f"{PREFIX}:"):
        network = timm_network(TimmReference.parse(network.architecture.space.partition(":")[2]).name)
    assert network.build is not None
    import torch

    with torch.device("meta"):
        return design_of(network.build())


def _deployed_graph(network: NamedNetwork) -> OpGraph:
    """The op graph with training-time branches merged, as phones run it."""
    if network.build is None or network.architecture is not None:
        return network.graph()
    import torch
    from timm.utils.model import reparameterize_model

    from latency_tables.trace import trace

    with torch.device("meta"):
        return trace(reparameterize_model(network.build().eval()), network.input_shape)
