"""A real search process, killed with SIGKILL again and again, ends as if nothing had happened.

Run as a script this file is that process: ``python test_search_kill.py FOLDER``.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.searches import FakeEvaluator, journal_trials, recorded, run_fake_search, timeless

EVALUATIONS = 60
SLOWED_SECONDS = 0.004


def kill_and_resume(folder: Path, kills: int, seed: int) -> int:
    """Run to the end with up to ``kills`` kills on the way; returns how many there were."""
    generator = np.random.default_rng(seed)
    lines = folder / "trials.jsonl"
    for number in range(kills):
        process = subprocess.Popen([sys.executable, __file__, str(folder)])
        wanted = (number + 1) * EVALUATIONS // (kills + 2)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if lines.exists() and lines.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.001)
        time.sleep(generator.random() * 3 * SLOWED_SECONDS)
        process.send_signal(signal.SIGKILL)
        code = process.wait()
        if code != -signal.SIGKILL:
            assert code == 0
            return number
    subprocess.run([sys.executable, __file__, str(folder)], check=True)
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


if __name__ == "__main__":
    run_fake_search(Path(sys.argv[1]), evaluations=EVALUATIONS, evaluator=FakeEvaluator(SLOWED_SECONDS), resume=True)
