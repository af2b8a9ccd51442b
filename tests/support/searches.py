"""Searches of the small space on a cheap objective, and what they leave in their run folders."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna

from latency_tables.predictor import Latencies
from nas.controllers import get_controller
from nas.evaluation.evaluators import EvaluationResult
from nas.events import ignore
from nas.executors.base import Executor
from nas.executors.in_process import InProcessExecutor
from nas.executors.successive_halving import FULL
from nas.objectives.bounds import Bounds, Device, Limit
from nas.objectives.objective import Objective, latency_of
from nas.records.trial import Trial
from nas.runs.run import Run
from nas.searching.loop import SearchLoop
from nas.searching.plan import Budget, Plan
from search_spaces import Architecture, Genotypes, SearchSpace, get_space, population_cost

SPACE = get_space("elastic-mini")
LIMIT_MS = 3.0
QUALITY_AND_LATENCY = (Objective("quality", is_evaluated=True), latency_of("fake"))


class FakePredictor:
    """A millisecond per million MACs, give or take a tenth."""

    def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
        ms = population_cost(space, genotypes).macs / 1e6
        return Latencies(ms, ms * 0.9, ms * 1.1, "calibrated", np.zeros(len(ms), dtype=bool))


class FakeEvaluator:
    """Prefers wide networks of even depth; deterministic, and slow on demand."""

    name = "quality"
    is_free = False

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.calls: list[Architecture] = []

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        self.calls.append(architecture)
        time.sleep(self.seconds)
        widths = sum(math.sqrt(value) for name, value in architecture.settings if name.endswith("width"))
        depths = [value for name, value in architecture.settings if name.endswith("depth")]
        return EvaluationResult(
            widths + sum(depths) - (max(depths) - min(depths)) + seed, {"depth": float(sum(depths))}
        )


def make_bound(limit_ms: float | None = LIMIT_MS) -> Bounds:
    limits = [] if limit_ms is None else [Limit("latency:fake", limit_ms)]
    return Bounds(SPACE, [Device("fake", FakePredictor(), "fake: a millisecond per million MACs")], limits)


def run_fake_search(
    folder: Path,
    *,
    evaluations: int | None = 40,
    seconds: float | None = None,
    seed: int = 0,
    controller: str = "nsga2",
    limit_ms: float | None = LIMIT_MS,
    resume: bool = False,
    evaluator: FakeEvaluator | None = None,
    progress: Callable[[object], None] = ignore,
    stop: Callable[[], bool] = lambda: False,
    batch: int = 1,
    executor: Executor | None = None,
    patience: int | None = None,
    rungs: tuple[float, ...] = FULL,
) -> SearchLoop:
    bound = make_bound(limit_ms)
    plan = Plan(QUALITY_AND_LATENCY, seed, batch, rungs)
    problem = bound.problem(plan.objectives, seed, evaluations, bound.check())
    with Run(folder, {"command": "search", "seed": seed}, seed=seed, resume=resume) as run:
        chosen = get_controller(controller)(problem)
        running = executor or InProcessExecutor(evaluator or FakeEvaluator())
        loop = SearchLoop(run, bound, plan, running, chosen, progress, stop)
        loop(Budget(evaluations, seconds, patience))
    return loop


def timeless(trials: Sequence[Trial]) -> list[dict[str, object]]:
    """The recorded lines but for the time that evaluations took."""
    return [{**json.loads(trial.to_line()), "seconds": 0} for trial in trials]


def recorded(folder: Path) -> list[dict[str, object]]:
    lines = (folder / "trials.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def journal_trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "journal.log"))
    study = optuna.load_study(study_name=folder.name, storage=optuna.storages.JournalStorage(backend))
    return study.trials


class SizePredictor:
    """A phone that pays for MACs and a board that pays for parameters."""

    def __init__(self, size: str) -> None:
        self.size = size

    def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
        ms = getattr(population_cost(space, genotypes), self.size) / (1e6 if self.size == "macs" else 1e5)
        return Latencies(ms, ms * 0.9, ms * 1.1, "calibrated", np.zeros(len(ms), dtype=bool))


def two_devices(*limits: Limit) -> Bounds:
    devices = [Device("phone", SizePredictor("macs"), "phone"), Device("board", SizePredictor("params"), "board")]
    return Bounds(SPACE, devices, limits)
