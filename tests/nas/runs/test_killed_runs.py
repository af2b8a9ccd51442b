"""Trainings, searches, finishes and measurements that are killed at moments of chance end as if they had not been."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.forked import finish, killed
from tests.support.verbs import Finish, Measure, Search, Train, Verb, make_sources

KILLS = 25
"""Of each verb; four verbs make a hundred."""


def kill_and_resume(verb: Verb, folder: Path, kills: int, generator: np.random.Generator) -> int:
    """Kill runs at moments of chance and go on in their folders; the number that were begun."""
    log = folder / "log"
    seconds = finish(partial(verb, folder / "whole"), log)
    whole, count, runs = verb.left(folder / "whole"), 0, 0
    while count < kills:
        run, runs, kept = folder / f"run-{runs}", runs + 1, []
        for _ in range(5):
            if count == kills or not killed(partial(verb, run), log, generator.random() * seconds):
                break
            count += 1
            before, kept = kept, verb.kept(run)
            assert kept[: len(before)] == before, "something was lost"
        finish(partial(verb, run), log)
        assert verb.left(run) == whole
        assert verb.kept(run)[: len(kept)] == kept
        assert not [path.name for path in run.rglob("*") if path.name.endswith((".tmp", ".old"))]
    return runs


@pytest.mark.parametrize(
    ("verb", "kills"),
    [(Train, 2), *(pytest.param(verb, KILLS, marks=pytest.mark.slow) for verb in (Train, Search, Finish, Measure))],
)
def test_killed_at_moments_of_chance(
    verb: type[Verb], kills: int, images: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    (tmp_path / "made").mkdir()
    made = tmp_path if verb is Train else make_sources(tmp_path / "made", images)
    began = time.monotonic()
    runs = kill_and_resume(verb(images, made), tmp_path, kills, np.random.default_rng(kills))
    record_property("killed", f"{kills} times in {runs} runs, {time.monotonic() - began:.0f} s")
