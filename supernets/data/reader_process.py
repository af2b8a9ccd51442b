"""A process that reads, with a connection that no other process holds.

Queues that several processes share have locks, and one that is killed while it hands something over keeps them for
ever. Here nothing is shared: what happens to one process touches no other, it can be ended at any moment, and what it
owes is asked of another one in its place.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import threading
import traceback
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from supernets.errors import DataError

ATTEMPTS = 3
"""Processes that may die on the same answer before that is an error."""
GRACE_SECONDS = 5.0
"""A connection breaks a moment before its process has ended; a process that ends unseen is found after this time."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)
_BROKEN = (OSError, EOFError, RuntimeError, multiprocessing.ProcessError)
_starting = threading.Lock()
"""A process that is forked while another one is being started would hold the other end of its connection."""
_connections: weakref.WeakSet[Connection] = weakref.WeakSet()
"""Ends of this process, which those that are forked from it close."""


class _Failed(NamedTuple):
    error: str
    is_fault: bool


class ReaderProcess(Generic[Asked, Answer]):
    """A process that answers what it is asked, one after another; a new one takes its place when it dies.

    It ends with this object, or with this process however that ends.

    Args:
        answer: Function that makes the answers; it depends on nothing but what is asked.
    """

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self._answer = answer
        self._owed: deque[Asked] = deque()
        self._deaths = 0
        self._start()

    def ask(self, asked: Asked) -> None:
        """Have something read; `receive` gives it."""
        self._owed.append(asked)
        self._send(asked)

    def receive(self) -> Answer:
        """What was asked for first of all that was not received yet.

        Raises:
            DataError: Several processes died on it one after another, or memory or open files have run out.
            RuntimeError: The function that reads has a fault; the message is the traceback.
        """
        while True:
            try:
                answer = self._received()
            except _BROKEN as error:
                self._replace(error)
                continue
            self._owed.popleft()
            self._deaths = 0
            if not isinstance(answer, _Failed):
                return answer  # type: ignore[no-any-return]
            if answer.is_fault:
                raise RuntimeError(f"reading failed in a process of its own:\n{answer.error}")
            raise _out_of(answer.error)

    def discard(self) -> None:
        """Receive what is owed, for nobody."""
        try:
            while self._owed:
                self._received()
                self._owed.popleft()
        except _BROKEN as error:
            self._owed.clear()
            self._replace(error)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._end()

    def _start(self) -> None:
        multiprocessing.util.get_temp_dir()  # where sockets lie: made here, what a killed process left goes with it
        with _starting:
            self._connection, other = multiprocessing.Pipe()
            _connections.add(self._connection)
            self._process = multiprocessing.Process(target=_serve, args=(other, self._answer), daemon=True)
            self._process.start()
            other.close()
        self._end = weakref.finalize(self, _end, self._process, self._connection, os.getpid())

    def _send(self, asked: Asked) -> None:
        try:
            self._connection.send(asked)
        except OSError:
            self._connection.close()  # which the next to receive finds out

    def _received(self) -> Any:
        while not self._connection.poll(GRACE_SECONDS):
            if self._process.exitcode is not None:
                raise EOFError
        return self._connection.recv()

    def _replace(self, error: Exception) -> None:
        self._process.join(GRACE_SECONDS)
        code = self._process.exitcode
        self._end()
        if code is None:
            raise _out_of(str(error) or type(error).__name__) from error
        self._deaths += 1
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if self._deaths == ATTEMPTS:
            raise DataError(
                f"reading images: {ATTEMPTS} worker processes died one after another, the last one {reason}",
                hint="memory or shared memory (/dev/shm) may have run out: take fewer workers, and resume",
            )
        logger.warning("reading images: worker process %d died (%s); another one takes over", self._process.pid, reason)
        self._start()
        for asked in self._owed:
            self._send(asked)


def _out_of(reason: str) -> DataError:
    return DataError(
        f"reading images: {reason}",
        hint="memory, shared memory (/dev/shm) or open files (`ulimit -n`) may have run out: take fewer workers, and"
        " resume",
    )


def _end(process: multiprocessing.Process, connection: Connection, owner: int) -> None:
    if os.getpid() == owner:  # no copy of the object in a process that was forked
        connection.close()
        process.terminate()
        process.join()


def _serve(connection: Connection, answer: Callable[[Any], Any]) -> None:
    """What the process does until the other end of its connection is closed."""
    for inherited in list(_connections):
        inherited.close()
    # Ctrl-C reaches every process of the terminal; the one that trains decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="PIL")  # remarks on metadata and sizes, once per process
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            asked = connection.recv()
            try:
                answered = answer(asked)
            except (OSError, MemoryError) as error:
                answered = _Failed(f"{type(error).__name__}: {error}", is_fault=False)
            except Exception:
                answered = _Failed(traceback.format_exc(), is_fault=True)
            try:
                connection.send(answered)
            except (OSError, RuntimeError) as error:  # shared memory is PyTorch's, which knows one kind of error
                connection.send(_Failed(str(error), is_fault=False))
