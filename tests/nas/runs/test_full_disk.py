"""A disk that fills up at one of many points: one message, no half of a file, and the same result afterwards."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest

from search_spaces.errors import NasError
from tests.support.forked import ended, finish, fork
from tests.support.mounts import grow_disk, own_mounts, small_disk
from tests.support.verbs import Finish, Measure, Search, Train, Verb, make_sources

PLENTY = 2**28
PAGE = 4096
NOT_ALLOWED = 77
"""Exit code of a process that may not mount."""


def until_full(verb: Verb, run: Path, said: Path) -> None:
    """Run until there is no space; what was said of it goes to a file elsewhere."""
    try:
        verb(run)
    except (NasError, OSError) as error:  # the command line tells both in one line
        said.write_text(json.dumps({"error": str(error), "kind": type(error).__name__}))


def on_a_small_disk(verb: Verb, disk: Path, size: int, outside: Path) -> None:
    """In a process of its own: fill the disk, look at what was left, free some space, and go on to the end."""
    try:
        own_mounts()
        small_disk(disk, size)
    except OSError:
        os._exit(NOT_ALLOWED)
    run, log = disk / "run", outside / "log"
    finish(partial(until_full, verb, run, outside / "said.json"), log)
    halves = [str(path) for path in run.rglob("*") if path.name.endswith((".tmp", ".old"))]
    (outside / "halves.json").write_text(json.dumps(halves))
    grow_disk(disk, PLENTY)
    finish(partial(verb, run), log)
    (outside / "left.json").write_text(json.dumps(verb.left(run)))


def size_of(folder: Path) -> int:
    """Bytes that a disk needs for a folder, in whole pages."""
    return sum(-(-path.stat().st_size // PAGE) * PAGE if path.is_file() else PAGE for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("verb", "points"),
    [
        pytest.param(Train, (0.01, 0.3, 0.4, 0.6, 0.95), marks=pytest.mark.slow),
        pytest.param(Search, (0.02, 0.2, 0.5, 0.9), marks=pytest.mark.slow),
        pytest.param(Finish, (0.02, 0.3, 0.6, 0.9), marks=pytest.mark.slow),
        pytest.param(Measure, (0.01, 0.5), marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up(verb: type[Verb], points: tuple[float, ...], images: Path, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    made = tmp_path if verb is Train else make_sources(tmp_path / "made", images)
    work = verb(images, made)
    finish(partial(work, tmp_path / "whole"), tmp_path / "log")
    whole, needed = json.loads(json.dumps(work.left(tmp_path / "whole"))), size_of(tmp_path / "whole")
    for point in points:
        disk, outside = tmp_path / f"disk-{point}", tmp_path / f"outside-{point}"
        disk.mkdir()
        outside.mkdir()
        size = max(PAGE, int(point * needed) // PAGE * PAGE)
        code = ended(fork(partial(on_a_small_disk, work, disk, size, outside), outside / "log"), 600)
        if code == NOT_ALLOWED:
            pytest.skip("this system lets nobody mount")
        assert code == 0, (outside / "log").read_text()[-3000:]
        said = json.loads((outside / "said.json").read_text())
        assert "No space left on device" in said["error"], said
        assert json.loads((outside / "halves.json").read_text()) == []
        assert json.loads((outside / "left.json").read_text()) == whole
