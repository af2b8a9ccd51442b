"""Values with units: `12ms`, `6m`, `1.8G`. A bare number is refused where it could mean two things."""

from __future__ import annotations

import re
from collections.abc import Sequence

import typer

_NUMBER = re.compile(r"^\s*([0-9]*\.?[0-9]+(?:e-?[0-9]+)?)\s*([a-zµ]*)\s*$", re.IGNORECASE)
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """`6m` to 360.0, in seconds."""
    return _parse(text, _SECONDS, "a time such as `90s`, `6m` or `2h`")


def parse_count(text: str) -> float:
    """`1.7944G` to 1794400000.0; a bare number is a count as well."""
    return _parse(text, _COUNTS, "a count such as `5M` or `1.8G`")


def parse_limits(texts: Sequence[str]) -> tuple[float | None, dict[str, float]]:
    """`12ms` as the limit in milliseconds on the target, `local=3ms` or `peak-memory=64MB` as one on what is named."""
    from nas.objectives.quantities import parse_limit

    limit_ms: float | None = None
    limits: dict[str, float] = {}
    for text in texts:
        name, value = parse_limit(text)
        if (limit_ms is not None) if name is None else name in limits:
            raise typer.BadParameter(f"`--limit {text}`: there is a limit on this already")
        if name is None:
            limit_ms = value
        else:
            limits[name] = value
    return limit_ms, limits


def format_duration(seconds: float) -> str:
    """`372` to `6m12s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def format_count(value: float) -> str:
    """`12016968` to `12.0M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def _parse(text: str, units: dict[str, float], expected: str) -> float:
    match = _NUMBER.match(text)
    if match is None:
        raise typer.BadParameter(f"`{text}`, expected {expected}")
    unit = match[2].lower()
    if unit not in units:
        found = f"unit `{match[2]}`" if unit else "no unit"
        raise typer.BadParameter(f"`{text}` has {found}, expected {expected} (units: {', '.join(units)})")
    value = float(match[1]) * units[unit]
    if value <= 0:
        raise typer.BadParameter(f"`{text}`, expected more than 0")
    return value
