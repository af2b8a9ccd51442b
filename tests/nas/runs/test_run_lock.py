"""The lock of a run folder: who is refused, by whom, and what is stale. Other machines are leases as they write one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nas.errors import RunError
from nas.runs import lock
from nas.runs.lock import STALE_SECONDS, Holder, RunLock
from nas.runs.run import Run

ELSEWHERE = Holder(4711, "other-machine", "2026-01-02T03:04:05+00:00", "their-boot", "pid:[1]", "12345", "their-token")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.01)


@pytest.fixture
def without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that offers no locks."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)


def leave(path: Path, holder: Holder, age: float) -> None:
    """Write a lease that was renewed so many seconds ago."""
    path.write_text(json.dumps(asdict(holder)))
    then = time.time() - age
    os.utime(path, (then, then))


def test_lock_is_given_back_empty_and_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        held = RunLock(tmp_path / "lock")
        held.check()
        assert held.stale is None
        held.release()
        assert (tmp_path / "lock").read_text() == ""


def test_process_on_this_machine_is_named(tmp_path: Path) -> None:
    held = RunLock(tmp_path / "lock")
    with pytest.raises(RunError) as caught:
        RunLock(tmp_path / "lock")
    since = json.loads((tmp_path / "lock").read_text())["since"]
    assert f"is in use by process {os.getpid()} on `{os.uname().nodename}` since {since}" in str(caught.value)
    assert (caught.value.exit_code, caught.value.hint) == (4, "wait for it to end, or name another folder")
    held.release()


def test_living_process_elsewhere_is_named_and_left_alone(tmp_path: Path) -> None:
    leave(tmp_path / "lock", ELSEWHERE, STALE_SECONDS / 2)
    with pytest.raises(RunError, match=r"process 4711 on `other-machine` since 2026-01-02T03:04:05") as caught:
        RunLock(tmp_path / "lock")
    assert "stale 60 s after" in caught.value.hint
    assert json.loads((tmp_path / "lock").read_text())["token"] == "their-token"
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_lease_that_nobody_renews_is_stale_and_noted(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {}):
        pass
    leave(tmp_path / "run" / "lock", ELSEWHERE, STALE_SECONDS + 5)
    with Run(tmp_path / "run", None, resume=True):
        assert json.loads((tmp_path / "run" / "lock").read_text())["pid"] == os.getpid()
    noted = json.loads((tmp_path / "run" / "environment.json").read_text())["resumed"][-1]["killed_before"]
    assert (noted["pid"], noted["host"]) == (4711, "other-machine")


def test_age_does_not_depend_on_the_clocks_of_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(tmp_path / "lock", ELSEWHERE, 5)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with pytest.raises(RunError, match="other-machine"):
        RunLock(tmp_path / "lock")


def test_dead_process_of_this_machine_is_stale_at_once(tmp_path: Path, without_flock: None) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = Holder.of_this_process()
    other = replace(me, pid=process.pid, started=lock._start_time(process.pid), token="other")
    leave(tmp_path / "lock", other, STALE_SECONDS + 5)
    with pytest.raises(RunError, match=f"process {process.pid} on"):
        RunLock(tmp_path / "lock")
    process.kill()
    process.wait()
    leave(tmp_path / "lock", other, 0)
    held = RunLock(tmp_path / "lock")
    assert held.stale == other
    held.release()


def test_number_that_another_process_has_now_is_stale(tmp_path: Path, without_flock: None) -> None:
    leave(tmp_path / "lock", replace(Holder.of_this_process(), started="1", token="other"), 0)
    RunLock(tmp_path / "lock").release()


def test_container_on_this_machine_counts_by_its_heartbeat(tmp_path: Path, without_flock: None) -> None:
    other = replace(Holder.of_this_process(), pid=1, pids="pid:[4026530000]", host="container", token="other")
    leave(tmp_path / "lock", other, 5)
    with pytest.raises(RunError, match="process 1 on `container`"):
        RunLock(tmp_path / "lock")
    leave(tmp_path / "lock", other, STALE_SECONDS + 5)
    RunLock(tmp_path / "lock").release()


def test_of_two_that_take_over_at_once_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_flock: None
) -> None:
    leave(tmp_path / "lock", ELSEWHERE, STALE_SECONDS + 5)
    rival = replace(ELSEWHERE, pid=4712, token="rival")
    monkeypatch.setattr(time, "sleep", lambda _: leave(tmp_path / "lock", rival, 0))
    with pytest.raises(RunError, match="process 4712 on"):
        RunLock(tmp_path / "lock")
    assert json.loads((tmp_path / "lock").read_text())["token"] == "rival"


def test_process_that_stood_still_writes_nothing_into_what_another_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Run(tmp_path / "run", {}) as run:
        run.update_settings({"before": 1})
        leave(tmp_path / "run" / "lock", ELSEWHERE, 0)
        later = time.time() + 10 * STALE_SECONDS
        monkeypatch.setattr(time, "time", lambda: later)
        for write in (lambda: run.append_trials([]), lambda: run.update_settings({"after": 1})):
            with pytest.raises(RunError, match="was taken over by process 4711 on `other-machine`"):
                write()
    assert "after" not in json.loads((tmp_path / "run" / "settings.json").read_text())
    assert json.loads((tmp_path / "run" / "lock").read_text())["token"] == "their-token", "it is theirs to release"


def test_lease_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    held = RunLock(tmp_path / "lock")
    os.utime(tmp_path / "lock", (1.0, 1.0))
    deadline = time.monotonic() + 30
    while (tmp_path / "lock").stat().st_mtime < 2.0:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    held.release()


@pytest.mark.parametrize("content", ["{", "[]", '{"pid": 3}', "\x00"])
def test_damaged_lease_holds_nobody_up(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock").write_text(content)
    RunLock(tmp_path / "lock").release()
