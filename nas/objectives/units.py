"""Values with units as people type them: `12ms`, `1h30m`, `1.8G`, `64MB`, `97.5%`; and for people to read.

A bare number is refused where it could mean two things, and so is what is not finite. Nothing heavy is imported here,
since the command line reads its options with this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?"
_VALUE = re.compile(rf"\s*({_NUMBER})\s*(%|[^\W\d_]*)\s*", re.IGNORECASE)
CENTURY = 100 * 365 * 86400.0


@dataclass(frozen=True)
class Measure:
    """A kind of values, and how they are written.

    Attributes:
        expected: What is expected, for messages, for example "a time such as `6m`".
        sizes: What one of each unit is, by its name in small letters; the empty name is a number without a unit.
        most: Largest value.
        may_be_zero: Whether 0 is a value.
        is_compound: Whether values with units may stand in a row and are added, as in `1h30m`.
    """

    expected: str
    sizes: Mapping[str, float]
    most: float = math.inf
    may_be_zero: bool = False
    is_compound: bool = False

    def parse(self, text: str) -> float:
        """The value that a text stands for.

        Raises:
            UsageError: It is of another form, has no unit or that of another kind, or is out of range.
        """
        from nas.errors import UsageError

        if self.may_be_zero and text.strip() == "0":  # of any unit
            return 0.0
        total, place, size = 0.0, 0, math.inf
        shown = text.replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}")
        while match := _VALUE.match(shown, place):
            unit = match[2].lower()
            if unit not in self.sizes:
                found = f"unit `{match[2]}`" if unit else "no unit"
                known = ", ".join(filter(None, self.sizes))
                raise UsageError(f"`{text}` has {found}, expected {self.expected} (units: {known})")
            if place and (not self.is_compound or match[1][0] in "+-" or self.sizes[unit] >= size):
                break
            size = self.sizes[unit]
            total += float(match[1]) * size
            place = match.end()
        if not place or place < len(shown):
            raise UsageError(f"`{text}`, expected {self.expected}")
        return self.check(total, text)

    def check(self, value: float, text: object) -> float:
        """The value, if it is in range.

        Raises:
            UsageError: It is not.
        """
        from nas.errors import UsageError

        if not math.isfinite(value):
            raise UsageError(f"`{text}` is not finite, expected {self.expected}")
        if value < 0 or (value == 0 and not self.may_be_zero):
            least = "0 or more" if self.may_be_zero else "more than 0"
            raise UsageError(f"`{text}`, expected {least}: {self.expected}")
        if value > self.most:
            raise UsageError(f"`{text}`, expected at most {self.most:g}: {self.expected}")
        return value


SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
BYTES = {
    "b": 1.0,
    **{f"{prefix}b": 1e3 ** (power + 1) for power, prefix in enumerate("kmgt")},
    **{f"{prefix}ib": 2.0 ** (10 * power + 10) for power, prefix in enumerate("kmgt")},
}

DURATION = Measure("a time such as `90s`, `6m`, `2h` or `1h30m`", SECONDS, most=CENTURY, is_compound=True)
BUDGET = Measure(DURATION.expected, SECONDS, most=CENTURY, may_be_zero=True, is_compound=True)
COUNT = Measure("a count such as `5M` or `1.8G`", COUNTS)
LATENCY = Measure("a latency such as `12ms`", MILLISECONDS)
SIZE = Measure("a size such as `64MB`", BYTES)
NUMBER = Measure("a number", {"": 1.0}, may_be_zero=True)
SHARE = Measure("a share such as `0.975` or `97.5%`", {"": 1.0, "%": 0.01}, most=1.0, may_be_zero=True)


def format_duration(seconds: float) -> str:
    """`372` to `6m12s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


ROUNDS_TO_ONE = 0.9995
"""What three significant digits make one of."""


def format_count(value: float) -> str:
    """`12016968` to `12.0M`."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= ROUNDS_TO_ONE * size:
            return f"{three_digits(value / size)}{unit}"
    return f"{value:g}"


def three_digits(value: float) -> str:
    """``value`` with three significant digits or all in front of the point, never with an exponent for being large."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
