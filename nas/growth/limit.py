"""How far a family grows: parameters, MACs or latency."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nas.errors import UsageError
from nas.objectives.units import COUNTS, MILLISECONDS, Measure

Kind = Literal["params", "macs", "latency"]

_SIZE = Measure(
    "parameters such as `80M`, MACs such as `1.2G` or `600MMACs`, or a latency such as `30ms`",
    {
        "m": COUNTS["m"],
        "g": COUNTS["g"],
        **{f"{prefix}{noun}": size for noun in ("params", "macs") for prefix, size in COUNTS.items()},
        **MILLISECONDS,
    },
)


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
    try:
        value = _SIZE.parse(text)
    except UsageError as error:
        raise UsageError(f"limit `up_to`: {error}") from error
    unit = re.findall(r"[^\W\d_]*", text.strip().lower())[-2]
    is_params, is_macs = unit == "m" or unit.endswith("params"), unit == "g" or unit.endswith("macs")
    return Limit("params" if is_params else "macs" if is_macs else "latency", value, text.strip())
