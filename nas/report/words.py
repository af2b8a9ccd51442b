"""How the report writes numbers and names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from latency_tables.predictor import Latency
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, FIDELITY, MEAN_IOU
from nas.objectives.quantities import find_quantity

MISSING = "—"


def words(name: str) -> str:
    """An identifier in words: ``length_distortion`` becomes ``length distortion``."""
    return name.replace("_", " ").replace("-", " ")


def count(number: float | None) -> str:
    """A large count with three significant digits: ``8.12 M``."""
    if number is None:
        return MISSING
    for scale, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= scale:
            return f"{_significant(number / scale)}{unit}"
    return f"{number:g}"


def milliseconds(number: float | None) -> str:
    """A latency with three significant digits and without its unit."""
    return MISSING if number is None else _significant(number)


def interval(record: Latency) -> str:
    """A latency with unit and interval: ``9.81 ms (9.10 to 10.6)``; without evidence the interval alone."""
    if record.extrapolated:
        return f"{milliseconds(record.low_ms)} to {milliseconds(record.high_ms)} ms"
    text = f"{milliseconds(record.ms)} ms"
    if record.low_ms == record.high_ms:
        return text
    return f"{text} ({milliseconds(record.low_ms)} to {milliseconds(record.high_ms)})"


def is_share(name: str) -> bool:
    """Whether an objective is a share of images, to be written in per cent."""
    return any(words(share) in words(name) for share in (ACCURACY, AVERAGE_PRECISION, MEAN_IOU))


def worth_text(facts: Mapping[str, Any]) -> str:
    """What a file of a network is worth on images, as `figure_of` calls it; empty where that was not measured."""
    if "accuracy" in facts:
        return f"{facts['accuracy']:.2%}"
    if AVERAGE_PRECISION in facts:
        return f"{facts[AVERAGE_PRECISION]:.2%}"
    return f"fidelity {facts['fidelity']:.3f}" if "fidelity" in facts else ""


def figure_of(facts: Mapping[str, Any]) -> str:
    """What the worth of a file is: accuracy, mean average precision or fidelity, with a capital."""
    return next((words(name).capitalize() for name in (FIDELITY, AVERAGE_PRECISION) if name in facts), "Accuracy")


def value(number: float | None, name: str) -> str:
    """The value of an objective, a score or a quantity with a unit."""
    if number is None or math.isnan(number):
        return MISSING
    quantity = find_quantity(name)
    if quantity is not None and quantity.unit not in ("", "ms"):
        return quantity.text(number)
    return f"{100 * number:.1f} %" if is_share(name) else f"{number:#.4g}"


def plural(number: int, noun: str) -> str:
    """``1 network``, ``2 networks``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _significant(number: float) -> str:
    magnitude = abs(number)
    if 0 < magnitude < 1:
        return f"{number:#.3g}"
    return f"{number:.2f}" if magnitude < 10 else f"{number:.1f}" if magnitude < 100 else f"{number:.0f}"


def space_words(space: str) -> str:
    """A space's name without the order of its blocks, which tells a reader nothing."""
    return re.sub(r"[?&]order=[\d.]+$", "", space)
