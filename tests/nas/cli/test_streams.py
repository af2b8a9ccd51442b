"""Streams that are closed, left or full: a message at most, never a traceback, and the run is written all the same."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support.forked import run_nas

NAS = f"{shlex.quote(sys.executable)} -m nas"


def in_shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize(
    "line",
    [
        f"{NAS} env >&-",
        f"{NAS} targets <&- >&- 2>&-",
        f"{NAS} targets | true",
        f"{NAS} targets --json | head -1",
        f"{NAS} env 2>&1 | head -1",
        f"PYTHONIOENCODING=ascii {NAS} targets",
    ],
)
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, line: str) -> None:
    done = in_shell(line, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk to try")
@pytest.mark.parametrize("command", ["targets", "targets --json"])
def test_a_full_disk_is_told(tmp_path: Path, command: str) -> None:
    done = in_shell(f"{NAS} {command} > /dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: [Errno 28]")
    assert "Traceback" not in done.stderr


def test_a_search_goes_on_without_output_and_prints_commands_that_can_be_typed(tmp_path: Path) -> None:
    search = ("search", "--space", "elastic-mini", "--evaluations", "4", "--controller", "random", "-q")
    done = run_nas(*search, "-o", "it's my run", folder=tmp_path, prepare=partial(os.close, 1))
    assert done.returncode == 0, done.stderr
    lines = [line.removeprefix("next:").strip() for line in done.stderr.splitlines() if "nas report" in line]
    assert [shlex.split(line) for line in lines] == [["nas", "report", "it's my run"]]
    assert (tmp_path / "it's my run" / "front.json").stat().st_size > 1000
