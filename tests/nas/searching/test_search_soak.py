"""Searches that are killed at random moments, with and without worker processes, end as if nothing had happened."""

from __future__ import annotations

import signal
import time
from contextlib import closing
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest

from nas.executors import make_executor
from nas.runs.run import Run
from nas.searching.loop import SearchLoop
from tests.support.executor_evaluators import troubled
from tests.support.forked import finish, fork, kill
from tests.support.searches import journal_trials, recorded, run_fake_search, timeless

EVALUATIONS = 200
CONTROLLERS = ("nsga2", "random", "evolution")
MOST_KILLS = 4
SECONDS = 0.004


def search(number: int, folder: Path, seconds: float = 0.0, resume: bool = False) -> SearchLoop:
    """The search of that number: controller, batch and executor go round."""
    workers = 2 if seconds and number % 2 else None
    executor = make_executor("local" if workers else "in-process", troubled(seconds=seconds), workers)
    with closing(executor):
        return run_fake_search(
            folder,
            evaluations=EVALUATIONS,
            seed=number,
            controller=CONTROLLERS[number % len(CONTROLLERS)],
            batch=(1, 8, 30)[number // 2 % 3],
            executor=executor,
            resume=resume,
        )


def kill_until_finished(number: int, folder: Path) -> int:
    """Kill the search at random moments and resume it, until it comes to its end; returns how often it was killed."""
    generator = np.random.default_rng(number)
    work, log = partial(search, number, folder, SECONDS, resume=True), folder.with_name("log")
    for kills in range(MOST_KILLS):
        process = fork(work, log)
        wait_for_progress(folder, process, int(generator.integers(1, EVALUATIONS // 2)))
        time.sleep(generator.random() * 10 * SECONDS)
        kill(process)
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, log.read_text()
            return kills
    finish(work, log)
    return MOST_KILLS


def wait_for_progress(folder: Path, process: BaseProcess, lines: int) -> None:
    """Until so many lines more are in the record, early ones included, or the process has ended."""

    def count() -> int:
        files = (folder / "trials.jsonl", folder / "running.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files if file.exists())

    before, deadline = count(), time.monotonic() + 120
    while process.is_alive() and count() < before + lines and time.monotonic() < deadline:
        time.sleep(0.001)


def lasting(trials: list[dict[str, object]]) -> list[dict[str, object]]:
    """Recorded trials but for the process that evaluated them."""
    return [{**trial, "scores": {}} for trial in trials]


@pytest.mark.parametrize("number", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(20) if n != 1)])
def test_no_trial_is_lost_and_none_is_there_twice(tmp_path: Path, number: int) -> None:
    whole = search(number, tmp_path / "whole")
    assert whole.evaluated == EVALUATIONS
    folder = tmp_path / "killed"
    assert kill_until_finished(number, folder) >= 1
    assert lasting(recorded(folder)) == lasting(timeless(whole.trials))
    assert not (folder / "running.jsonl").exists()
    again = search(number, folder, resume=True)
    assert [trial.number for trial in again.front] == [trial.number for trial in whole.front]
    assert lasting(timeless(again.front)) == lasting(timeless(whole.front))
    found = journal_trials(folder)
    assert [trial.number for trial in found] == list(range(len(whole.trials)))
    assert [trial.params for trial in found] == [dict(trial.architecture.settings) for trial in whole.trials]
    with Run(folder, None, resume=True) as run:
        assert run.settings["seed"] == number
