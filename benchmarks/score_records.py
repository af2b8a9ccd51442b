"""Scores of many untrained networks, computed by several processes and kept in a file that only grows.

One line of the file holds what one network scored under one setting and one seed. What stands there is not computed
again, so a run that was stopped goes on, and a run with more scores, seeds or networks adds to it.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from trained_vits import Settings, TrainedSet, subject

from nas.scores.orphans import end_with_parent

Floats = npt.NDArray[np.float64]

TELL_EVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Setting:
    """How a score is taken: side of the noise images in pixels, and their number."""

    image_side: int
    batch_size: int


@dataclass(frozen=True)
class Job:
    """One network under one setting and one seed."""

    set_name: str
    network: str
    setting: Setting
    seed: int


@dataclass(frozen=True)
class Outcome:
    """One score of one job; NaN with a reason where it failed."""

    value: float
    seconds: float
    failure: str = ""


class Records:
    """Outcomes by job and score, backed by a file of JSON lines.

    Args:
        path: Of the file; made when the first outcome is added.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[tuple[Job, str], Outcome] = {}
        if path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            if whole != text:  # a run that was killed left half a line
                path.write_text(whole, encoding="utf-8")
            for line in whole.splitlines():
                self._remember(*_from_json(json.loads(line)))

    def missing(self, job: Job, scores: Iterable[str]) -> list[str]:
        """The scores that the job still needs."""
        return [score for score in scores if (job, score) not in self._outcomes]

    def add(self, job: Job, outcomes: dict[str, Outcome]) -> None:
        """Keep a job's outcomes."""
        self._remember(job, outcomes)
        entry = {**asdict(job), "outcomes": {score: _to_json(outcome) for score, outcome in outcomes.items()}}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def failure(self, trained: TrainedSet, setting: Setting, seed: int, score: str) -> str:
        """Why the first network of a set that has no value has none."""
        outcomes = (self._outcomes[Job(trained.name, each, setting, seed), score] for each in trained.ids)
        return next((outcome.failure for outcome in outcomes if outcome.failure), "")

    def values(self, trained: TrainedSet, setting: Setting, seeds: Sequence[int], score: str) -> Floats:
        """One score of all networks of a set by seed ``[k, n]``; NaN where it failed."""
        return self._array(trained, setting, seeds, score, "value")

    def seconds(self, trained: TrainedSet, setting: Setting, seeds: Sequence[int], score: str) -> float:
        """Mean time of one score for one network and seed."""
        return float(np.mean(self._array(trained, setting, seeds, score, "seconds")))

    def _array(self, trained: TrainedSet, setting: Setting, seeds: Sequence[int], score: str, field: str) -> Floats:
        jobs = [[Job(trained.name, network, setting, seed) for network in trained.ids] for seed in seeds]
        return np.array([[getattr(self._outcomes[job, score], field) for job in row] for row in jobs])

    def _remember(self, job: Job, outcomes: dict[str, Outcome]) -> None:
        self._outcomes.update({(job, score): outcome for score, outcome in outcomes.items()})


def compute(
    records: Records,
    sets: Sequence[TrainedSet],
    setting: Setting,
    seeds: Sequence[int],
    scores: Sequence[str],
    workers: int,
) -> None:
    """Fill in what the records lack, seed by seed, with progress on standard error."""
    wanted: list[tuple[Job, Settings, list[str]]] = []
    for seed in seeds:
        for trained in sets:
            for network, settings in zip(trained.ids, trained.settings, strict=True):
                job = Job(trained.name, network, setting, seed)
                if names := records.missing(job, scores):
                    wanted.append((job, settings, names))
    if not wanted:
        return
    start = told = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        futures = {pool.submit(_evaluate, *each): each[0] for each in wanted}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                records.add(futures[future], future.result())
                if (now := time.monotonic()) - told > TELL_EVERY_SECONDS or done == len(wanted):
                    minutes, told = (now - start) / done * (len(wanted) - done) / 60, now
                    print(f"{setting.image_side} px: {done}/{len(wanted)}, {minutes:.1f} min left", file=sys.stderr)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _one_thread() -> None:
    import torch

    end_with_parent()
    torch.set_num_threads(1)


def _evaluate(job: Job, settings: Settings, scores: list[str]) -> dict[str, Outcome]:
    from nas.scores.measure import evaluate_scores

    network = subject(f"{job.set_name}/{job.network}", settings, job.setting.image_side)
    results = evaluate_scores(network, scores, seed=job.seed, repeats=1, batch_size=job.setting.batch_size)
    return {name: Outcome(result.value, result.seconds, result.failure) for name, result in results.items()}


def _to_json(outcome: Outcome) -> dict[str, Any]:
    entry = asdict(outcome)
    return {**entry, "value": outcome.value if math.isfinite(outcome.value) else None}


def _from_json(entry: dict[str, Any]) -> tuple[Job, dict[str, Outcome]]:
    job = Job(entry["set_name"], entry["network"], Setting(**entry["setting"]), entry["seed"])
    outcomes = {
        score: Outcome(math.nan if each["value"] is None else each["value"], each["seconds"], each["failure"])
        for score, each in entry["outcomes"].items()
    }
    return job, outcomes
