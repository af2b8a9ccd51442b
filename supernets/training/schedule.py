"""How long to train and at which learning rate: a fixed number of steps, made once where a time budget is set."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from math import cos, pi
from typing import Any

SAFETY = 0.97
"""Share of a time budget that is planned for; the rest absorbs what was not measured."""
TOLERANCE = 1.01
CHECKS = 20


@dataclass(frozen=True)
class Schedule:
    """Learning rate by step: a linear rise, half a cosine, and a flat end where one is asked for.

    Attributes:
        total_steps: Steps of the whole training.
        warmup: Share of the training in which the rate rises.
        from_step: Step at which the training was shortened last.
        from_progress: Share of the training that was done by then.
        start: The rate at the beginning, as a share of the peak.
        floor: The rate at the end, as a share of the peak.
        cooldown: Share of the training, its last part, at that rate.
    """

    total_steps: int
    warmup: float
    from_step: int = 0
    from_progress: float = 0.0
    start: float = 0.0
    floor: float = 0.01
    cooldown: float = 0.0

    def progress(self, step: float) -> float:
        """The share of the training that is done when ``step`` begins, in [0, 1]."""
        ahead = (step - self.from_step) / max(1, self.total_steps - self.from_step)
        return self.from_progress + (1 - self.from_progress) * ahead

    def rate(self, step: int) -> float:
        """The learning rate of ``step`` (from 0) as a share of the peak, in (0, 1]."""
        middle = self.progress(step + 0.5)
        if middle < self.warmup:
            return self.start + (1 - self.start) * (middle / self.warmup)
        fallen = min(1.0, (middle - self.warmup) / (1 - self.warmup - self.cooldown))
        return self.floor + (1 - self.floor) * (1 + cos(pi * fallen)) / 2

    def shortened(self, step: int, total_steps: int) -> Schedule:
        """The schedule that goes on from ``step`` as this one and ends after ``total_steps``."""
        return replace(self, total_steps=total_steps, from_step=step, from_progress=self.progress(step))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``Schedule(**data)`` gives it back."""
        return asdict(self)


def steps_within(seconds: float, seconds_per_step: float) -> int:
    """The number of steps to plan for what is left of a time budget; one at least."""
    return max(1, int(SAFETY * seconds / seconds_per_step))


def shorten_to_budget(
    schedule: Schedule, step: int, elapsed: float, seconds_per_step: float, budget: float
) -> Schedule:
    """Shorten a schedule that would overrun its time budget; asked now and then, it bounds the overrun.

    The number of steps is never raised, and the rate goes on from where it is and still falls to its floor.

    Args:
        schedule: The schedule so far.
        step: The next step.
        elapsed: Seconds trained so far.
        seconds_per_step: Seconds of one of the latest steps.
        budget: Seconds in all.
    """
    if elapsed + (schedule.total_steps - step) * seconds_per_step <= budget * TOLERANCE:
        return schedule
    possible = step + max(1, int((budget - elapsed) / seconds_per_step))
    return schedule.shortened(step, possible) if possible < schedule.total_steps else schedule


def is_check(schedule: Schedule, step: int) -> bool:
    """Whether `shorten_to_budget` is due before ``step``: about every twentieth of the training."""
    return 0 < step < schedule.total_steps and step % max(1, schedule.total_steps // CHECKS) == 0
