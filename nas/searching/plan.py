"""When a search ends, how it goes about it, and how its time is divided."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nas.errors import RunError
from nas.events import EXPORT_SHARE, TimePlan
from nas.executors.successive_halving import FULL
from nas.latency.evidence import expected_seconds
from nas.objectives.objective import Objective
from nas.objectives.quantities import Quantity
from nas.records.trial import State, Trial
from nas.records.trial_record import TRIALS, read_trials
from nas.runs.folder import CHECKPOINTS, FINISHED, TRAINING, RunFolder, trained_seconds
from nas.searching.settings import SearchSettings
from search_spaces import get_space

MEASURING = "measure this machine"
SCALING, SCALES_SHARE = "scales of the image", 0.25
"""Looking at them with the chosen network, and its share of the time for that network."""
UNTRAINED_SECONDS = 120.0
"""Time to judge networks where nothing is trained and no number of them is given."""


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


def divide_time(settings: SearchSettings, spent: float, *, exports: bool) -> TimePlan:
    """What each part of a search gets; fixed when the run is started, so that a resumed one trains what was begun.

    Args:
        settings: Settings of the search.
        spent: Seconds that latency tables and the like have taken already.
        exports: Whether a network is exported and judged in the end.
    """
    total = settings.budget_seconds
    if total == 0:
        return TimePlan(None, UNTRAINED_SECONDS if settings.evaluations is None else None)
    return TimePlan.of(total, spent, trains=settings.trains, exports=exports, finishes=settings.finishes)


def planned_stages(settings: SearchSettings, run: Path | None) -> dict[str, float | None]:
    """What is going to be done, in order, with the time that it gets or is expected to take.

    Args:
        settings: Settings of the search.
        run: The run folder that it goes on in, whose stages have what is left of their time; None for a new run.
    """
    stages, done = dict[str, float | None](), 0
    exports = settings.data is not None or settings.supernet is not None
    if settings.model is not None:
        stages["prepare the model"] = None
    measuring = expected_seconds(settings.targets, get_space(settings.space))
    if measuring:
        stages[MEASURING] = measuring
    divided = divide_time(settings, measuring, exports=exports)
    if run is not None:
        divided, done = _left(run, settings)
    if settings.trains:
        stages["training of all networks"] = divided.training_seconds
    counted = "" if settings.evaluations is None else f" of {max(settings.evaluations - done, 0):,} networks"
    stages[f"search{counted}"] = divided.search_seconds
    winner, scaling = divided.winner_seconds, None
    if settings.scales and winner is not None:
        scaling = SCALES_SHARE * winner
        winner -= scaling
    if settings.finishes:
        stages["training of the chosen one"] = winner
    if exports:
        stages["export"] = EXPORT_SHARE * settings.budget_seconds if settings.budget_seconds else None
    if settings.scales:
        stages[SCALING] = scaling
    return stages


def _left(run: Path, settings: SearchSettings) -> tuple[TimePlan, int]:
    """What a run has left of the time that it gave to each part, and how many networks it has judged."""
    folder, trials = RunFolder(run), list[Trial]()
    if settings.data is not None or settings.supernet is not None:
        with suppress(RunError):  # whoever goes on with the run reads the record again, and says what is wrong with it
            trials = read_trials(run / TRIALS, get_space(settings.space))
    spent = {
        "training_seconds": trained_seconds(run / CHECKPOINTS),
        "search_seconds": sum(trial.seconds for trial in trials) / settings.workers,
        "winner_seconds": trained_seconds(run / FINISHED / CHECKPOINTS / TRAINING),
    }
    given = {name: folder.settings.get(name) for name in spent}
    if settings.budget_seconds and (before := folder.settings.get("budget_seconds")):
        name = "winner_seconds" if settings.finishes else "search_seconds"
        given[name] = (given[name] or 0.0) + settings.budget_seconds - before
    left = {name: None if had is None else max(had - spent[name], 0.0) for name, had in given.items()}
    return TimePlan(**left), sum(trial.state is not State.INFEASIBLE for trial in trials)
