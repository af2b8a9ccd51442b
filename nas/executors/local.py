"""Workers as processes of this machine.

Each is a fresh Python process with one thread for tensor operations, so that many of them do not fight over the same
processors. Weights are mapped into memory from the checkpoint: all workers share the pages, and the second one finds
them there. A worker that is killed, for example because memory ran out, is noticed at once and replaced.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from nas.executors.base import EvaluatorBlueprint, ExecutorError
from nas.executors.pool import Chunk, Event, Finished, WorkerGone, WorkerReady

EXIT_SECONDS = 5.0
_START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"  # Ctrl-C is for the parent, which ends its workers
    "import sys; from nas.executors.worker import main; main(int(sys.argv[1]))"
)
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class LocalPool:
    """Starts and watches worker processes.

    Args:
        blueprint: What they build their evaluator from.
        workers: How many; None for one per processor that this process may use.
    """

    def __init__(self, blueprint: EvaluatorBlueprint, workers: int | None = None) -> None:
        self._blueprint = blueprint
        self._workers = workers or processors()
        self._numbers = count()
        self._processes: dict[int, tuple[subprocess.Popen[bytes], Connection]] = {}
        self._last_words: dict[int, str] = {}

    def start(self) -> None:
        """Start as many workers as are missing."""
        while len(self._processes) < self._workers:
            self._start_one()

    def send(self, worker: int, chunk: Chunk) -> None:
        """Bring a chunk to a worker; one that has died meanwhile is reported by `events`."""
        with contextlib.suppress(OSError):
            self._processes[worker][1].send(chunk)

    def events(self, timeout: float) -> Sequence[Event]:
        """Messages and deaths."""
        numbers = {connection: number for number, (_, connection) in self._processes.items()}
        found: list[Event] = []
        for ready in wait(list(numbers), timeout):
            connection = cast(Connection, ready)
            found += self._messages(numbers[connection], connection)
        self.start()
        return found

    def close(self) -> None:
        """End all workers: their connection closes, and whoever does not end by that is killed."""
        processes, self._processes = self._processes, {}
        for _, connection in processes.values():
            connection.close()
        for process, _ in processes.values():
            try:
                process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _messages(self, worker: int, connection: Connection) -> list[Event]:
        found: list[Event | None] = []
        try:
            while connection.poll():
                found.append(self._event(worker, connection.recv()))
        except (EOFError, OSError):
            found.append(WorkerGone(worker, self._reap(worker)))
        return [event for event in found if event is not None]

    def _event(self, worker: int, message: tuple[Any, ...]) -> Event | None:
        kind, *content = message
        if kind == "ready":
            return WorkerReady(worker)
        if kind == "done":
            return Finished(worker, content[0], content[1])
        if kind == "unfit":
            return WorkerGone(worker, f"workers cannot evaluate: {content[0]}", is_hopeless=True)
        self._last_words[worker] = content[0]
        return None

    def _reap(self, worker: int) -> str:
        """Why a worker has ended."""
        process, connection = self._processes.pop(worker)
        connection.close()
        try:
            code = process.wait(EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        said = self._last_words.pop(worker, "")
        if said:
            return said
        if code < 0:
            return f"process {process.pid} was killed by {signal.Signals(-code).name}"
        return f"process {process.pid} ended with exit code {code}"

    def _start_one(self) -> None:
        here, there = socket.socketpair()
        paths = os.pathsep.join(path for path in sys.path if path)
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, str(there.fileno())],
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD, "PYTHONPATH": paths},
            )
        except OSError as error:
            here.close()
            raise ExecutorError(
                f"a worker process cannot be started: {error.strerror or error}", hint="use fewer workers"
            ) from error
        finally:
            there.close()
        connection = Connection(here.detach())
        self._processes[next(self._numbers)] = (process, connection)
        with contextlib.suppress(OSError):
            connection.send(self._blueprint)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
