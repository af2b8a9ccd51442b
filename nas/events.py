"""What a run reports while it works: small events for a callback. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas.records.trial import Trial
from nas.time_plan import TimePlan


@dataclass(frozen=True)
class StageStarted:
    """A part of the run begins.

    Attributes:
        name: ``table``, ``training``, ``search``, ``export``.
        seconds: Its share of the budget; None where it has none.
    """

    name: str
    seconds: float | None = None


@dataclass(frozen=True)
class StageProgress:
    """How far a part of the run has come that is counted in pieces, for example the building of a latency table.

    Attributes:
        name: What is being done.
        done: Pieces done.
        total: Pieces there are.
    """

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class TrainingCutShort:
    """What was measured and prepared first left much less of the budget to training than it usually gets.

    Attributes:
        plan: The time that there is.
        usual: The time that there would be, had nothing been spent before.
    """

    plan: TimePlan
    usual: TimePlan


@dataclass(frozen=True)
class SearchStarted:
    """The search begins or goes on.

    Attributes:
        objective: What is maximised.
        evaluations: How many networks to evaluate in all; None where only time counts.
        budget_seconds: How long to evaluate in all; None where only the number counts.
        recorded: Trials of earlier sessions.
    """

    run: Path
    space: str
    target: str
    limit_ms: float | None
    objective: str
    evaluations: int | None
    budget_seconds: float | None
    recorded: int


@dataclass(frozen=True)
class TrialFinished:
    """A network has been evaluated, has failed, or was found over the bound.

    Where nothing has to be evaluated only the last network of each batch is told of.

    Attributes:
        evaluated: Networks evaluated so far, earlier sessions included.
        infeasible: Proposals over the bound so far.
        front_size: Networks on the front so far.
        seconds: Time spent so far, earlier sessions included.
    """

    trial: Trial
    evaluated: int
    infeasible: int
    front_size: int
    seconds: float


@dataclass(frozen=True)
class SearchFinished:
    """The search has ended.

    Attributes:
        reason: ``evaluations``, ``budget``, ``exhausted`` (nothing new within the bound) or ``interrupted``.
    """

    run: Path
    evaluated: int
    front_size: int
    reason: str


Progress = Callable[[object], None]
"""Receives the events of this module, and those of training and table building in between."""


def ignore(event: object) -> None:
    """A `Progress` that shows nothing."""
