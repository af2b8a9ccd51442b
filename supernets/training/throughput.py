"""How fast a training goes, and how many steps a time budget leaves room for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from supernets.training.progressive import Phase, mean_of_rest
from supernets.training.schedule import Schedule, is_check, shorten_to_budget

COLD_STEPS, TIMED_STEPS, TIMED_SHARE = 8, 10, 0.05
"""A budget is turned into steps by timing up to this many, after some cold ones, or this share of the budget."""
TIMED_STRIDE = 97
"""Between the steps that are timed, so that they are no neighbours, whose networks may cost alike."""

Agree = Callable[[Any], Any]
"""Gives all processes of a training what the main one has."""


class Throughput:
    """The duration of the latest steps, and what it says about the rest of a training.

    Args:
        phases: Phases of the training.
        weights: Seconds of a step in each phase, up to a common factor.
        steps: Number of latest steps to look at.
    """

    def __init__(self, phases: Sequence[Phase], weights: Sequence[float], steps: int) -> None:
        self.phases, self.weights = phases, list(weights)
        self._durations: deque[float] = deque(maxlen=steps)

    def note(self, seconds: float) -> None:
        """Take note of what a step took."""
        self._durations.append(seconds)

    def forget(self) -> None:
        """Forget all steps, since those to come will take another time."""
        self._durations.clear()

    @property
    def steps_per_second(self) -> float:
        """Steps per second, over the latest ones."""
        return len(self._durations) / sum(self._durations)

    def step_seconds(self, progress: float, phase: int) -> float:
        """Expected seconds of a step, on average over the rest of the training, from those of steps of one phase."""
        rest = mean_of_rest(self.phases, self.weights, progress)
        return rest / self.weights[phase] / self.steps_per_second

    def kept(self, schedule: Schedule, step: int, elapsed: float, budget: float | None, phase: int) -> Schedule:
        """The schedule, shortened where the budget asks for it; looked at now and then only."""
        if budget is None or not self._durations or not is_check(schedule, step):
            return schedule
        return shorten_to_budget(schedule, step, elapsed, self.step_seconds(schedule.progress(step), phase), budget)


def time_steps(run: Callable[[int], None], seconds_left: Callable[[], float], agree: Agree) -> float:
    """Seconds of a step, timed as long as time is left.

    The lower quartile: what made the slower ones slow is mostly gone later, and a schedule that turns out too long
    is shortened, while one that is too short would leave time unused.

    Args:
        run: Called to do the step of a number.
        seconds_left: Seconds until timing must end; some steps are timed in any case.
        agree: What gives all processes the value of the main one.
    """
    durations: list[float] = []
    while len(durations) < COLD_STEPS + TIMED_STEPS:
        if len(durations) > COLD_STEPS and agree(seconds_left() <= 0):
            break
        began = time.monotonic()
        run(len(durations) * TIMED_STRIDE)
        durations.append(time.monotonic() - began)
    return float(agree(float(np.quantile(durations[COLD_STEPS:], 0.25))))
