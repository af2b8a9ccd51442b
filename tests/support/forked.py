"""Work in a process that need not import anything, since it is forked from one that has, and that can be killed.

The processes are not forked from the test's own: one that has computed gradients cannot be forked.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["nas.cli.main", "nas.searching.search", "nas.training.train", "nas.finishing.finish"])


def fork(work: Callable[[], object], log: Path) -> ForkServerProcess:
    """Begin the work, which can be pickled; what it says, and why it failed, goes to ``log``."""
    process = _context.Process(target=_do, args=(work, log, dict(os.environ)))
    process.start()
    return process


def _do(work: Callable[[], object], log: Path, environment: Mapping[str, str]) -> None:
    code = 1
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(environment)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))
        work()
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def ended(process: ForkServerProcess, seconds: float) -> int | None:
    """The exit code of a process that ends within so many seconds; None for one that does not."""
    process.join(seconds)
    return process.exitcode


def kill(process: ForkServerProcess) -> None:
    """Kill the process, and it alone."""
    process.kill()
    process.join()


def kill_all(process: ForkServerProcess) -> None:
    """Kill the process and those that it began."""
    assert process.pid is not None
    os.killpg(process.pid, signal.SIGKILL)
    process.join()


def finish(work: Callable[[], object], log: Path, seconds: float = 300.0) -> float:
    """Do the work to its end; how long that took."""
    began = time.monotonic()
    code = ended(process := fork(work, log), seconds)
    if code is None:
        kill_all(process)
    assert code == 0, f"exit code {code}:\n{log.read_text()[-3000:]}"
    return time.monotonic() - began


def killed(work: Callable[[], object], log: Path, seconds: float) -> bool:
    """Begin the work and kill it, and it alone, after so long; whether it had not ended before."""
    code = ended(process := fork(work, log), seconds)
    if code is None:
        kill(process)
        return True
    assert code == 0, f"exit code {code}:\n{log.read_text()[-3000:]}"
    return False
