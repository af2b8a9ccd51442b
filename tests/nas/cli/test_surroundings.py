"""Commands without a home, a terminal or UTF-8, with few open files, in odd folders, on clocks that jump."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nas
from nas.errors import RunError
from nas.runs.run import Run
from tests.support.forked import ended, fork, run_nas
from tests.support.mounts import make_read_only, own_mounts
from tests.support.searches import FakeEvaluator, recorded, run_fake_search, timeless

NOWHERE = "/dev/null/nowhere"
"""A folder that not even root can make."""
NOT_ALLOWED = 77
SEARCH = ("search", "--target", "pixel6", "--evaluations", "20", "--space", "elastic-mini", "-q")
QUOTES = "a b'c\"d $(touch injected) `touch injected` ;&|* ünï 日本 [red]x[/red]\n-o"
LONG = "n" * 200


def run_command(
    folder: Path, prepare: Callable[[], object], *arguments: str, code: int = 0, seconds: float = 120.0
) -> str:
    """What a command says on both outputs, in a process whose surroundings were prepared."""
    done = run_nas(*arguments, folder=folder, prepare=prepare, seconds=seconds)
    said = done.stdout + done.stderr
    assert done.returncode == code, said
    assert "this is a fault of nas" not in said, said
    return said


def as_they_are() -> None:
    """The surroundings of the tests."""


def without_home() -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "NAS_CACHE_DIR", "USER", "LOGNAME"):
        os.environ.pop(name, None)


def without_writable_home() -> None:
    without_home()
    os.environ["HOME"] = NOWHERE


def with_few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images, more than files may be open."""
    random = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 90)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(150):
            pixels = random.integers(level, level + 160, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("prepare", [without_home, without_writable_home])
def test_no_home(prepare: Callable[[], None], tmp_path: Path) -> None:
    run_command(tmp_path, prepare, *SEARCH, "-o", str(tmp_path / "run"))
    run_command(tmp_path, prepare, "targets")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    build = ("latency", "build", "--target", "local", "--networks", "4")
    said = run_command(tmp_path, without_writable_home, *build, code=1)
    assert f"`{NOWHERE}" in said
    assert "NAS_CACHE_DIR" in said


@pytest.mark.slow
def test_a_training_without_a_home_makes_its_tables_again(folder: Path, tmp_path: Path) -> None:
    train = ("train", "--data", str(folder), "--epochs", "1", "-q", "--policy", "conflict-aware", "--batch-size", "64")
    run_command(tmp_path, without_writable_home, *train, "-o", str(tmp_path / "net"), seconds=500)


@pytest.mark.slow
def test_few_open_files(folder: Path, tmp_path: Path) -> None:
    few = ("--batch-size", "2", "--validate", "smallest")
    run_command(
        tmp_path, with_few_files, "train", "--data", str(folder), "--epochs", "1", "-q", *few, "-o", str(tmp_path / "n")
    )


@pytest.mark.slow
def test_few_open_files_for_many_workers(folder: Path, tmp_path: Path) -> None:
    run_command(
        tmp_path, with_few_files, "train", "--data", str(folder), "--epochs", "1", "-q", "-o", str(tmp_path / "net")
    )
    workers = ("--workers", "8", "--supernet", str(tmp_path / "net"), "--executor", "local")
    search = ("search", *workers, "--evaluations", "20", "-q", "-o", str(tmp_path / "run"))
    run_command(tmp_path, with_few_files, *search, seconds=500)
    assert nas.load_result(tmp_path / "run").evaluated == 20


@pytest.mark.parametrize("name", [QUOTES, LONG, f"{LONG[:50]}/{LONG[:50]}/{QUOTES}"])
def test_folders_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_command(tmp_path, as_they_are, *SEARCH, "-o", str(tmp_path / name))
    run_command(tmp_path, as_they_are, "search", "--resume", str(tmp_path / name), "--evaluations", "25", "-q")
    assert nas.load_result(tmp_path / name).evaluated == 25
    assert not (tmp_path / "injected").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", [QUOTES, LONG])
def test_everything_works_in_folders_of_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / name
    run_command(tmp_path, as_they_are, *SEARCH, "-o", str(run))
    run_command(tmp_path, as_they_are, "report", str(run))
    assert "<title>" in (run / "report.html").read_text(encoding="utf-8")
    again = ("--config", str(run / "settings.toml"), "-o", str(tmp_path / "again"))
    run_command(tmp_path, as_they_are, "search", *again, "-q")
    run_command(tmp_path, as_they_are, "export", str(run), "-o", str(run / f"x {name[:20]}"))
    run_command(tmp_path, as_they_are, "export", f"{run}")
    assert not (tmp_path / "injected").exists()


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&- 2>&- <&-", ">&-", "2>&-", "<&-", "</dev/null >/dev/null 2>/dev/null"])
def test_no_terminal(streams: str, tmp_path: Path) -> None:
    text = f'exec "$@" {streams}'
    done = subprocess.run(
        ["sh", "-c", text, "sh", sys.executable, "-m", "nas", *SEARCH[:-1], "-o", str(tmp_path / "run")],
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    assert nas.load_result(tmp_path / "run").evaluated == 20


@pytest.mark.parametrize("seed", [(), pytest.param(("--seed", "5"), marks=pytest.mark.slow)])
def test_a_locale_without_letters(seed: tuple[str, ...], tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"}
    run = tmp_path / "rün"
    first = [*SEARCH[:-1], "-o", str(run)]
    for arguments in (first, *([["search", "--resume", str(run), *seed], ["--help"]] if seed else [])):
        done = subprocess.run(
            [sys.executable, "-m", "nas", *arguments],
            env={**os.environ, **plain},
            capture_output=True,
            check=False,
            timeout=120,
        )
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode == (4 if "--seed" in arguments else 0), said
        assert "Traceback" not in said
        assert "this is a fault" not in said
    assert nas.load_result(run).evaluated == 20
    assert json.loads((run / "settings.json").read_text(encoding="utf-8"))["space"] == "elastic-mini"


def jumping() -> Iterator[float]:
    """A clock that is set back by an hour every few looks."""
    now, step = 1.7e9, 0
    while True:
        step += 1
        now += 0.5 if step % 7 else -3600
        yield now


def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run_fake_search(tmp_path / "whole", evaluations=30)
    clock = jumping()
    monkeypatch.setattr(time, "time", lambda: next(clock))
    run_fake_search(tmp_path / "run", evaluations=10, evaluator=FakeEvaluator(0.001))
    later = time.time() - 1e6
    for path in (tmp_path / "run").iterdir():  # files from the future
        os.utime(path, (later + 1e7, later + 1e7))
    monkeypatch.setattr(time, "time", lambda: later)
    run_fake_search(tmp_path / "run", evaluations=30, resume=True)
    assert recorded(tmp_path / "run") == timeless(whole.trials)


def write(run: Path, said: Path) -> None:
    try:
        run_fake_search(run, evaluations=60, evaluator=FakeEvaluator(0.005), resume=True)
        said.write_text("done")
    except RunError as error:
        said.write_text(str(error))


def test_two_writers(tmp_path: Path) -> None:
    whole = run_fake_search(tmp_path / "whole", evaluations=60)
    said = [tmp_path / f"said-{number}" for number in range(4)]
    processes = [fork(partial(write, tmp_path / "run", path), tmp_path / "log") for path in said]
    assert [ended(process, 120) for process in processes] == [0] * 4, (tmp_path / "log").read_text()
    texts = [path.read_text() for path in said]
    assert texts.count("done") >= 1
    assert all(text == "done" or "is in use by process" in text for text in texts)
    assert recorded(tmp_path / "run") == timeless(whole.trials)


def look_at(run: Path, outside: Path, works: tuple[tuple[str, ...], ...]) -> None:
    """What can be done with a run folder that cannot be written, and what cannot."""
    try:
        own_mounts()
        make_read_only(run)
    except OSError:
        os._exit(NOT_ALLOWED)
    os.chdir(outside)
    for code, refused in ((4, ("search", "--resume", str(run), "-q")), (1, ("report", str(run)))):
        said = run_command(outside, as_they_are, *refused, code=code)
        assert "Read-only file system" in said
        assert str(run) in said
    for arguments in works:
        run_command(outside, as_they_are, *arguments)
    with pytest.raises(RunError, match="cannot be made: Read-only file system"):
        Run(run / "other", {})


@pytest.mark.parametrize("is_long", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_folder_that_cannot_be_written(is_long: bool, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_command(tmp_path, as_they_are, *SEARCH, "-o", str(run))
    (tmp_path / "outside").mkdir()
    elsewhere = ("export", str(run), "-o", str(tmp_path / "outside" / "x"))
    works = (elsewhere, ("latency", "predict", f"{run}:knee", "--target", "pixel6")) if is_long else ()
    code = ended(fork(partial(look_at, run, tmp_path / "outside", works), tmp_path / "log"), 300)
    if code == NOT_ALLOWED:
        pytest.skip("this system lets nobody mount")
    assert code == 0, (tmp_path / "log").read_text()[-4000:]
