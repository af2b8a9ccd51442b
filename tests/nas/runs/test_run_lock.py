"""The lease of a run folder: who is refused, by whom, and what is stale. Other machines are leases like theirs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from nas.errors import RunError
from nas.runs import lock
from nas.runs.lock import STALE_SECONDS, RunLock
from nas.runs.run import Run

TAKE = """
import sys
from pathlib import Path
from nas.errors import RunError
from nas.runs import lock
lock.STALE_SECONDS, lock.HEARTBEAT_SECONDS = float(sys.argv[2]), 0.05
print("ready", flush=True)
input()
try:
    held = lock.RunLock(Path(sys.argv[1]))
except RunError as error:
    print(error, flush=True)
else:
    print("held", flush=True)
    input()
"""


def leave(folder: Path, age: float, host: str = "other-machine", pid: int = 4711, stale: float = STALE_SECONDS) -> Path:
    """Write the lease of another machine that was renewed this many seconds ago, as filelock replaces one."""
    text = f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=their-token\nduration={stale}\n"
    draft, path = folder / "draft", folder / "lease"
    draft.write_text(text)
    then = time.time() - age
    os.utime(draft, (then, then))
    draft.replace(path)
    return path


def start(folder: Path, stale: float = STALE_SECONDS) -> subprocess.Popen[str]:
    """Another process that takes the folder once it is told to, and keeps it until it is told once more."""
    command = [sys.executable, "-c", TAKE, str(folder), str(stale)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert answer(process) == "ready"
    return process


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def is_hasty(monkeypatch: pytest.MonkeyPatch) -> float:
    """Leases that are stale after this many seconds."""
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    return 0.6


def test_lock_is_given_back_and_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        held = RunLock(tmp_path)
        held.check()
        assert held.stale is None
        assert [path.name for path in tmp_path.iterdir()] == ["lease"]
        held.release()
        assert list(tmp_path.iterdir()) == []


def test_process_on_this_machine_is_named(tmp_path: Path) -> None:
    other = start(tmp_path)
    tell(other)
    assert answer(other) == "held"
    with pytest.raises(RunError) as caught:
        RunLock(tmp_path)
    other.communicate("\n")
    assert str(caught.value) == (f"run folder `{tmp_path}` is in use by process {other.pid} on `{os.uname().nodename}`")
    assert (caught.value.exit_code, caught.value.hint) == (4, "wait for it to end, or name another folder")
    RunLock(tmp_path).release()


def test_living_process_elsewhere_is_named_at_once_and_left_alone(tmp_path: Path) -> None:
    path = leave(tmp_path, STALE_SECONDS / 2)
    with pytest.raises(RunError, match="process 4711 on `other-machine`") as caught:
        RunLock(tmp_path)
    assert "stale 60 s after" in caught.value.hint
    assert "token=their-token" in path.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["lease"]


def test_lease_that_nobody_renews_is_stale_and_noted(
    tmp_path: Path, is_hasty: float, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    with Run(folder, {}):
        pass
    path = leave(folder, 5, stale=is_hasty)
    begun = time.monotonic()
    with Run(folder, None, resume=True):
        assert f"pid={os.getpid()}\n" in path.read_text()
    assert time.monotonic() - begun > is_hasty, "it is watched before it is replaced"
    assert "sign of life from process 4711 on `other-machine`" in caplog.text
    noted = json.loads((folder / "environment.json").read_text())["resumed"][-1]["killed_before"]
    assert noted == {"pid": 4711, "host": "other-machine", "token": "their-token"}


def test_lease_that_is_renewed_while_it_is_watched_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.05)
    path = leave(tmp_path, STALE_SECONDS + 5)
    renewal = threading.Timer(0.5, os.utime, [path])
    renewal.start()
    with pytest.raises(RunError, match="process 4711 on `other-machine`"):
        RunLock(tmp_path)
    renewal.join()
    assert "token=their-token" in path.read_text()


def test_age_does_not_depend_on_the_clocks_of_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path, 5)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(RunError, match="other-machine"):
        RunLock(tmp_path)


def test_dead_process_of_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    other = start(tmp_path)
    tell(other)
    assert answer(other) == "held"
    other.kill()
    other.wait()
    begun = time.monotonic()
    held = RunLock(tmp_path)
    assert time.monotonic() - begun < STALE_SECONDS / 4
    assert held.stale is not None
    assert held.stale.pid == other.pid
    held.release()


def test_number_that_another_process_has_now_is_stale(tmp_path: Path) -> None:
    held = RunLock(tmp_path)
    text = (tmp_path / "lease").read_text()
    held.release()
    (tmp_path / "lease").write_text(re.sub(r"start=\d+", "start=1", text))
    RunLock(tmp_path).release()


def test_container_on_this_machine_counts_by_its_heartbeat(tmp_path: Path, is_hasty: float) -> None:
    container = f"{os.uname().nodename}?pidns-1"
    leave(tmp_path, 0.1, container, pid=1, stale=is_hasty)
    with pytest.raises(RunError, match=f"process 1 on `{os.uname().nodename}`"):
        RunLock(tmp_path)
    leave(tmp_path, 5, container, pid=1, stale=is_hasty)
    RunLock(tmp_path).release()


def test_of_two_that_take_over_at_once_one_wins(tmp_path: Path, is_hasty: float) -> None:
    leave(tmp_path, 5, stale=is_hasty)
    rivals = [start(tmp_path, is_hasty) for _ in range(2)]
    for rival in rivals:
        tell(rival)
    answers = {rival.pid: answer(rival) for rival in rivals}
    for rival in rivals:
        rival.communicate("\n")
    winner = next(pid for pid, text in answers.items() if text == "held")
    (refused,) = (text for text in answers.values() if text != "held")
    assert f"in use by process {winner} on" in refused


def test_process_that_stood_still_writes_nothing_into_what_another_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with Run(folder, {}) as run:
        run.update_settings({"before": 1})
        path = leave(folder, 0)
        later = time.time() + 10 * STALE_SECONDS
        monkeypatch.setattr(time, "time", lambda: later)
        for write in (lambda: run.append_trials([]), lambda: run.update_settings({"after": 1})):
            with pytest.raises(RunError, match="was taken over by process 4711 on `other-machine`"):
                write()
    assert "after" not in json.loads((folder / "settings.json").read_text())
    assert "token=their-token" in path.read_text(), "it is theirs to release"


def test_lease_is_renewed(tmp_path: Path, is_hasty: float) -> None:
    held = RunLock(tmp_path)
    os.utime(tmp_path / "lease", (1.0, 1.0))
    deadline = time.monotonic() + 30
    while (tmp_path / "lease").stat().st_mtime < 2.0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    held.check()
    held.release()


def test_lease_that_was_removed_is_noticed(tmp_path: Path, is_hasty: float) -> None:
    held = RunLock(tmp_path)
    (tmp_path / "lease").unlink()
    time.sleep(0.1)
    with pytest.raises(RunError, match="taken over by whoever removed its lease"):
        held.check()
    held.release()


@pytest.mark.parametrize("content", ["{", "[]", '{"pid": 3}', "\x00"])
def test_damaged_lease_holds_nobody_up(tmp_path: Path, content: str) -> None:
    (tmp_path / "lease").write_text(content)
    RunLock(tmp_path).release()


def test_empty_lease_is_left_to_its_owner_by_name(tmp_path: Path) -> None:
    (tmp_path / "lease").touch()
    with pytest.raises(RunError, match="in use by another process") as caught:
        RunLock(tmp_path)
    assert f"remove `{tmp_path / 'lease'}`" in caught.value.hint
