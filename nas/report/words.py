"""How the report writes numbers and names."""

from __future__ import annotations

from nas.report.reading import LatencyRecord

MISSING = "—"


def words(name: str) -> str:
    """An identifier in words: ``length_distortion`` becomes ``length distortion``."""
    return name.replace("_", " ")


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


def interval(record: LatencyRecord) -> str:
    """A latency with unit and interval: ``9.81 ms (9.10 to 10.6)``."""
    text = f"{milliseconds(record.ms)} ms"
    if record.low_ms is None or record.high_ms is None:
        return text
    return f"{text} ({milliseconds(record.low_ms)} to {milliseconds(record.high_ms)})"


def is_share(name: str) -> bool:
    """Whether an objective is a share of images, to be written in per cent."""
    return "accuracy" in name


def value(number: float | None, name: str) -> str:
    """The value of an objective or score."""
    if number is None:
        return MISSING
    return f"{100 * number:.1f} %" if is_share(name) else f"{number:#.4g}"


def plural(number: int, noun: str) -> str:
    """``1 network``, ``2 networks``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _significant(number: float) -> str:
    magnitude = abs(number)
    return f"{number:.2f}" if magnitude < 10 else f"{number:.1f}" if magnitude < 100 else f"{number:.0f}"
