"""When a search ends, and how it goes about it."""

from __future__ import annotations

from dataclasses import dataclass

from nas.executors.successive_halving import FULL
from nas.objectives.objective import Objective
from nas.objectives.quantities import Quantity


@dataclass(frozen=True)
class Budget:
    """When a search ends: at whichever limit comes first.

    Attributes:
        evaluations: Networks to evaluate, earlier sessions included; proposals out of bounds are free, and those
            stopped at less than full fidelity count that share.
        seconds: Time to spend, earlier sessions' evaluations included.
        patience: Evaluations in a row that enlarge the volume dominated by the front by nothing.
    """

    evaluations: int | None
    seconds: float | None
    patience: int | None = None


@dataclass(frozen=True)
class Plan:
    """How a search goes about it; a resumed one goes about it in the same way.

    Attributes:
        objectives: What is optimised, what is evaluated first.
        seed: Seed of the evaluations.
        batch: Networks that are asked for at once.
        rungs: Fidelities of evaluations, ascending; the last is 1.
        workers: Evaluations that run at the same time, among which time spent before is divided.
        score: Quantity that is computed in columns in place of evaluations, as the first objective; None without one.
    """

    objectives: tuple[Objective, ...]
    seed: int
    batch: int = 1
    rungs: tuple[float, ...] = FULL
    workers: int = 1
    score: Quantity | None = None
