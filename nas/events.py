"""What a run reports while it works: small events for a callback, and how its time is divided. Nothing here prints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas.records.trial import Trial

SEARCH_SHARE = 0.1
EXPORT_SHARE = 0.06
"""Of a budget that is also to train: training takes what these, and the building of a latency table, leave over."""
JUDGING_SHARE, MOST_JUDGING_SECONDS = 0.2, 900.0
"""Share of a budget, and most seconds, in which networks are judged before anything is trained."""
COMPENSATION_SHARE = 0.1
"""Share of such a budget for what makes up for what was cut out of the network that was chosen."""
CUT_SHORT = 0.75
"""Share of its usual time below which a training is worth a warning."""


@dataclass(frozen=True)
class TimePlan:
    """Seconds for each part, told when a run starts; None for a part that time does not bound or that there is not.

    Attributes:
        training_seconds: To train all networks together.
        search_seconds: To judge networks.
        winner_seconds: To train the one that was chosen.
    """

    training_seconds: float | None
    search_seconds: float | None
    winner_seconds: float | None = None

    @classmethod
    def of(cls, total: float | None, spent: float, *, trains: bool, exports: bool, finishes: bool = False) -> TimePlan:
        """Divide ``total`` seconds; None for a search that time does not bound.

        Args:
            spent: Seconds that latency tables and the like have taken already. Training and search get a tenth of the
                total each, however much that is.
            trains: Whether there is a supernet to train.
            exports: Whether a network is exported and judged in the end.
            finishes: Whether the network that was chosen is trained.
        """
        if total is None:
            return cls(None, None)
        export = EXPORT_SHARE * total if exports else 0.0
        rest = max(total - export - spent, 2 * SEARCH_SHARE * total)
        if finishes:
            search, compensation = min(JUDGING_SHARE * total, MOST_JUDGING_SECONDS), COMPENSATION_SHARE * total
            return cls(None, min(search, rest / 2), max(rest - search - compensation, SEARCH_SHARE * total))
        if not trains:
            return cls(None, rest)
        return cls(rest - SEARCH_SHARE * total, SEARCH_SHARE * total)

    def is_cut_short(self, usual: TimePlan) -> bool:
        """Whether training gets much less than in a plan with nothing spent before."""
        if self.training_seconds is None or usual.training_seconds is None:
            return False
        return self.training_seconds < CUT_SHORT * usual.training_seconds


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
class Notice:
    """Something was found that whoever started the run should know.

    Attributes:
        text: A sentence.
    """

    text: str


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
