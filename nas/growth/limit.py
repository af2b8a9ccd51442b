"""How far a family grows: parameters, MACs or latency."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nas.errors import UsageError

Kind = Literal["params", "macs", "latency"]

_UNITS: dict[str, tuple[Kind, float]] = {
    "m": ("params", 1e6),
    "mparams": ("params", 1e6),
    "g": ("macs", 1e9),
    "gmacs": ("macs", 1e9),
    "mmacs": ("macs", 1e6),
    "us": ("latency", 1e-3),
    "ms": ("latency", 1.0),
    "s": ("latency", 1e3),
}
_EXPECTED = "parameters such as `80M`, MACs such as `1.2G` or `600MMACs`, or a latency such as `30ms`"


@dataclass(frozen=True)
class Limit:
    """Where growth ends.

    Attributes:
        kind: What is limited.
        value: Parameters, multiply-accumulates, or milliseconds.
        text: As it was given.
    """

    kind: Kind
    value: float
    text: str

    @property
    def limit_ms(self) -> float | None:
        """The limit in milliseconds where it is one of latency."""
        return self.value if self.kind == "latency" else None


def parse_limit(text: str) -> Limit:
    """Read a limit with its unit.

    Raises:
        UsageError: It is no positive number, or has no unit of a known kind.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text.replace("µ", "u"), re.IGNORECASE)
    if match is None or match[2].lower() not in _UNITS or not float(match[1]) > 0:
        raise UsageError(f"limit `{text}`, expected {_EXPECTED}")
    kind, size = _UNITS[match[2].lower()]
    return Limit(kind, float(match[1]) * size, text.strip())
