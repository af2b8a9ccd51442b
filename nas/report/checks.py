"""What a run found out about the network that it ships: training, verification, accuracy by class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from nas.report import markup
from nas.report.figures import pick_of
from nas.report.markup import Column, Row
from nas.report.reading import ReportData, measured_latency, verified_member
from nas.report.words import MISSING, interval, is_share, value, words

WARN_DIFFERENCE = 0.10
"""Relative difference between measured and predicted latency above which the page warns."""


_APART = ("latency", "number", "test_by_class", "test_by_label")
"""What the page does not list among other facts of the winner."""


def checks_section(run: ReportData) -> str:
    """Training, and what was verified of the winner; empty where neither happened."""
    training, verified = run.section("training"), run.section("verified")
    if not training and not verified:
        return ""
    parts = []
    if training:
        facts = {name: entry for name, entry in training.items() if name not in ("schema", "run")}
        parts += ["<h3>Training</h3>", markup.pairs(flat_facts(facts))]
    if verified:
        rest = {name: entry for name, entry in verified.items() if name not in _APART}
        parts += ["<h3>Verification</h3>", _latency_check(run), markup.pairs(flat_facts(rest)) if rest else ""]
        parts += [_by_class(verified.get("test_by_class"), bool(verified.get("test_is_uneven")))]
        parts += [_by_label(verified.get("test_by_label"))]
    return markup.section("Training and verification", *parts)


def _by_class(by_class: object, is_uneven: bool) -> str:
    """Accuracy on the test part class by class, the least accurate first, and a warning where classes are uneven."""
    entries = by_class.items() if isinstance(by_class, Mapping) else ()
    known = [
        (float(facts["accuracy"]), name, int(facts["images"]))
        for name, facts in entries
        if isinstance(facts, Mapping)
        and all(isinstance(facts.get(key), int | float) and math.isfinite(facts[key]) for key in ("accuracy", "images"))
    ]
    if not known:
        return ""
    rows = [Row((name, f"{images:,}", f"{accuracy:.2%}")) for accuracy, name, images in sorted(known)]
    table = markup.table([Column("class"), Column("test images", True), Column("accuracy", True)], rows)
    counts = [images for _, _, images in known]
    uneven = (
        f"Warning: the commonest class has {max(counts):,} test images and the rarest {min(counts):,}; accuracy says"
        " little then, and balanced accuracy, the mean over classes, more."
    )
    note = markup.paragraph(uneven, "note") if is_uneven else ""
    return note + markup.folded("Accuracy by class, on the test part", table)


def _by_label(by_label: object) -> str:
    """What the file is worth on the test part label by label, the lowest average precision first."""
    entries = by_label.items() if isinstance(by_label, Mapping) else ()
    columns = {"average_precision": "average precision", "prior": "prior", "auroc": "AUROC"}
    known = [
        [name, *(facts[key] if _is_number(facts.get(key)) else math.nan for key in columns)]
        for name, facts in entries
        if isinstance(facts, Mapping)
    ]
    if not known:
        return ""
    rows = [
        Row((name, *(MISSING if math.isnan(each) else f"{each:.2%}" for each in found)))
        for name, *found in sorted(known, key=lambda row: -math.inf if math.isnan(row[1]) else row[1])
    ]
    table = markup.table([Column("label"), *(Column(title, True) for title in columns.values())], rows)
    return markup.folded("Average precision by label, on the test part", table)


def robustness_section(run: ReportData) -> str:
    """Accuracy on disturbed test images; empty where nobody asked for it."""
    found = run.section("robustness")
    rows = [(name, entry) for name, entry in found.items() if isinstance(entry, Mapping)]
    if not rows:
        return ""
    networks = list(rows[0][1])
    cells = [
        Row((name, *(f"{share:.1%}" if _is_number(share := entry.get(network)) else MISSING for network in networks)))
        for name, entry in rows
    ]
    table = markup.table([Column("test images"), *(Column(network, True) for network in networks)], cells)
    return markup.section("Accuracy on disturbed images", table)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _latency_check(run: ReportData) -> str:
    front, measured = run.front, measured_latency(run.front)
    verified = verified_member(front) or pick_of(front)
    if measured is None or verified is None or front.target not in verified.latency:
        return ""
    predicted = verified.latency[front.target]
    difference = measured.ms / predicted.ms - 1 if predicted.ms > 0 else 0.0
    facts = {
        f"predicted latency on {front.target}, trial {verified.number}": interval(predicted),
        f"measured latency on {front.target}": interval(measured),
        "measured against predicted": f"{100 * difference:+.1f} %",
    }
    warning = (
        f"Measured and predicted latency differ by more than {WARN_DIFFERENCE:.0%}: rebuild the latency table or"
        " measure what else you pick."
    )
    return markup.pairs(facts) + (markup.paragraph(warning, "warning") if abs(difference) > WARN_DIFFERENCE else "")


def flat_facts(entry: Any, name: str = "") -> dict[str, str]:
    """Nested JSON as names and texts, in the order of the file."""
    if isinstance(entry, Mapping):
        flat: dict[str, str] = {}
        for key, inner in entry.items():
            flat |= flat_facts(inner, f"{name} {words(str(key))}".strip())
        return flat
    if isinstance(entry, list) and any(isinstance(inner, (Mapping, list)) for inner in entry):
        return flat_facts({str(position): inner for position, inner in enumerate(entry, start=1)}, name)
    return {name or "value": _text(entry, name)}


def _text(entry: Any, name: str) -> str:
    if isinstance(entry, list):
        return ", ".join(_text(inner, name) for inner in entry) or MISSING
    if entry is None:
        return MISSING
    if isinstance(entry, bool):
        return "yes" if entry else "no"
    if isinstance(entry, float):
        return value(entry, name) if is_share(name) else f"{entry:.4g}"
    return str(entry)
