"""Work in a process that is forked from this one, so that it needs no time to import anything, and can be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def fork(work: Callable[[], object], log: Path) -> int:
    """Begin the work; what it says, and why it failed, goes to ``log``. The number of its process."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # not those of pytest
        work()
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(process: int, seconds: float) -> int | None:
    """The exit code of a process that ends within so many seconds; None for one that does not."""
    deadline = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def finish(work: Callable[[], object], log: Path, seconds: float = 300.0) -> float:
    """Do the work to its end; how long that took."""
    began = time.monotonic()
    code = ended(process := fork(work, log), seconds)
    if code is None:
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert code == 0, f"exit code {code}:\n{log.read_text()[-3000:]}"
    return time.monotonic() - began


def killed(work: Callable[[], object], log: Path, seconds: float) -> bool:
    """Begin the work and kill it, and it alone, after so long; whether it had not ended before."""
    code = ended(process := fork(work, log), seconds)
    if code is None:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return True
    assert code == 0, f"exit code {code}:\n{log.read_text()[-3000:]}"
    return False
