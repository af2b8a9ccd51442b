"""A real search process, killed with SIGKILL again and again, ends as if nothing had happened."""

from __future__ import annotations

import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.forked import finish, fork, kill
from tests.support.searches import FakeEvaluator, journal_trials, recorded, run_fake_search, timeless

EVALUATIONS = 60
SLOWED_SECONDS = 0.004


def search(folder: Path) -> None:
    run_fake_search(folder, evaluations=EVALUATIONS, evaluator=FakeEvaluator(SLOWED_SECONDS), resume=True)


def kill_and_resume(folder: Path, kills: int, seed: int) -> int:
    """Run to the end with up to ``kills`` kills on the way; returns how many there were."""
    generator = np.random.default_rng(seed)
    lines, work, log = folder / "trials.jsonl", partial(search, folder), folder.with_name("log")
    for number in range(kills):
        process = fork(work, log)
        wanted = (number + 1) * EVALUATIONS // (kills + 2)
        deadline = time.monotonic() + 60
        while process.is_alive() and time.monotonic() < deadline:
            if lines.exists() and lines.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.001)
        time.sleep(generator.random() * 3 * SLOWED_SECONDS)
        kill(process)
        if process.exitcode != -signal.SIGKILL:
            assert process.exitcode == 0, log.read_text()
            return number
    finish(work, log)
    return kills


@pytest.mark.parametrize(("kills", "seed"), [(4, 0), pytest.param(25, 1, marks=pytest.mark.slow)])
def test_killed_and_resumed_search_equals_an_uninterrupted_one(tmp_path: Path, kills: int, seed: int) -> None:
    whole = run_fake_search(tmp_path / "whole", evaluations=EVALUATIONS)
    folder = tmp_path / "killed"
    assert kill_and_resume(folder, kills, seed) >= 2
    assert recorded(folder) == timeless(whole.trials)
    final = run_fake_search(folder, evaluations=EVALUATIONS, resume=True)
    assert timeless(final.front) == timeless(whole.front)
    trials = journal_trials(folder)
    assert [trial.params for trial in trials] == [dict(trial.architecture.settings) for trial in whole.trials]
