"""What can go wrong in a run. Every message names subject, found and expected; `hint` holds the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces import Architecture
from search_spaces.errors import NasError as NasError


class UsageError(NasError):
    """Arguments that make no sense together."""

    exit_code = 2


class InfeasibleError(NasError):
    """No network of the space satisfies the latency bound.

    Attributes:
        nearest: The network with the lowest upper latency that was found.
        target: The device.
        high_ms: Upper end of the nearest network's predicted latency.
        limit_ms: The bound.
        miss_ms: By how much the nearest network misses it.
    """

    exit_code = 3

    def __init__(self, nearest: Architecture, target: str, high_ms: float, limit_ms: float) -> None:
        self.nearest = nearest
        self.target = target
        self.high_ms = high_ms
        self.limit_ms = limit_ms
        self.miss_ms = high_ms - limit_ms
        super().__init__(
            f"no network of `{nearest.space}` stays within {limit_ms:g} ms on `{target}`: the fastest one found is"
            f" predicted to take up to {high_ms:.3g} ms, {self.miss_ms:.3g} ms over",
            hint=f"raise the limit to at least {_rounded_up(high_ms)} ms, or choose a space with smaller networks",
        )


class UnsatisfiableError(NasError):
    """No network of the space satisfies all bounds at once.

    Attributes:
        limits: Names of what is bounded.
    """

    exit_code = 3

    def __init__(self, space: str, limits: Sequence[str], reason: str) -> None:
        self.limits = tuple(limits)
        super().__init__(
            f"no network of `{space}` was found within the bounds on {', '.join(f'`{name}`' for name in limits)}: the"
            f" nearest one has {reason}",
            hint="raise a limit, widen the window with `--window`, or choose another space",
        )


class RunError(NasError):
    """A run folder that cannot be read, does not fit, or is in use."""

    exit_code = 4


class MissingDependencyError(NasError):
    """A package that this step needs is not installed."""

    exit_code = 5


class EvaluationError(NasError):
    """One network could not be evaluated; the search records the reason and goes on."""


def _rounded_up(value: float) -> str:
    """Three significant digits, never below ``value``."""
    text = f"{value:.3g}"
    return text if float(text) >= value else f"{value * 1.005:.3g}"
