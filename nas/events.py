"""What a run reports while it works: small events for a callback, and how its time is divided. Nothing here prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
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

STARTING = "starting"
"""The stage before the first that is told of: settings, images and weights are read."""


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

    @property
    def stages(self) -> dict[str, float]:
        """The parts as stages, but for those that time does not bound or that there are not."""
        parts = {"training of all networks": self.training_seconds, "search": self.search_seconds}
        parts["training of the chosen one"] = self.winner_seconds
        return {name: seconds for name, seconds in parts.items() if seconds is not None}

    def is_cut_short(self, usual: TimePlan) -> bool:
        """Whether training gets much less than in a plan with nothing spent before."""
        if self.training_seconds is None or usual.training_seconds is None:
            return False
        return self.training_seconds < CUT_SHORT * usual.training_seconds


@dataclass(frozen=True)
class StagePlan:
    """What a run is going to do, told before anything that takes long.

    Attributes:
        stages: The seconds that each stage gets of the budget, or is expected to take, by name in their order; None
            where neither is known.
    """

    stages: Mapping[str, float | None]


@dataclass(frozen=True)
class StagesTook:
    """What each stage of a run took, told at its end.

    Attributes:
        seconds: Seconds of each stage of this session, by name in their order.
    """

    seconds: Mapping[str, float]


@dataclass(frozen=True)
class StageStarted:
    """A part of the run begins.

    Attributes:
        name: What is done, for example ``training``, ``search`` or ``export``.
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


class StageClock:
    """A `Progress` that passes events on, and measures what lies between the beginnings of stages.

    A verb that another verb runs has a clock too. What it plans and took is not passed on by the outer clock, which
    measures the same stages.

    Args:
        progress: Receiver of the events; None for nobody.

    Attributes:
        seconds: Seconds of the stages that have ended, by name; one that began twice has the sum.
    """

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress or ignore
        self._plan: StagePlan | None = None
        self._stage, self._since = STARTING, time.monotonic()

    def plan(self, stages: Mapping[str, float | None]) -> None:
        """Tell of the stages that are to come, when the first of them begins: what fails before that has no plan."""
        self._plan = StagePlan(stages)

    def __call__(self, event: object) -> None:
        """Pass an event on."""
        if isinstance(event, StagePlan | StagesTook):
            return
        if isinstance(event, StageStarted):
            self._close(event.name)
            if self._plan is not None:
                self._progress(self._plan)
            self._plan = None
        self._progress(event)

    def end(self) -> None:
        """End the last stage, and tell what each took."""
        self._close(STARTING)
        self._progress(StagesTook(dict(self.seconds)))

    def _close(self, following: str) -> None:
        now = time.monotonic()
        self.seconds[self._stage] = self.seconds.get(self._stage, 0.0) + now - self._since
        self._stage, self._since = following, now
