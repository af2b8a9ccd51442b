"""What executors with workers have in common: who evaluates what next, and what happens when a worker is lost.

Only the means differ: a `Pool` starts workers, brings chunks of tasks to them and reports what becomes of both. A
chunk holds as many tasks as take about `CHUNK_SECONDS`, so that cheap evaluations are not all messages. A worker has
one chunk to run, and while evaluations are short another in waiting, so that it never stands still and nothing piles
up. Results do not depend on any of this.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol, TypeAlias

from nas.executors.base import Evaluation, ExecutorError, Task
from nas.records.trial import State

CHUNK_SECONDS = 0.25
LONG_SECONDS = 1.0
"""Evaluations that take longer are handed out one by one: nobody waits behind one while another worker is free."""
ATTEMPTS = 3
"""A task whose worker died so often is lost."""
FAILED_STARTS = 3
"""So many workers in a row that died before they were ready, and there is no use in starting more."""
HOPELESS = 5
"""So many tasks lost before the first was evaluated, and the search ends."""
WAIT_SECONDS = 1.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chunk:
    """Tasks that go to a worker together."""

    number: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class WorkerReady:
    """A worker has built its evaluator."""

    worker: int


@dataclass(frozen=True)
class WorkerGone:
    """A worker has died; its place is filled, as far as possible, by a new one under another number.

    Attributes:
        is_hopeless: The evaluator cannot be built, so that another worker would fare no better.
    """

    worker: int
    reason: str
    is_hopeless: bool = False


@dataclass(frozen=True)
class Finished:
    """Evaluations of a chunk, all of them or some."""

    worker: int
    chunk: int
    evaluations: Sequence[tuple[int, Evaluation]]


Event: TypeAlias = WorkerReady | WorkerGone | Finished


class Pool(Protocol):
    """Workers, and the way to them."""

    def start(self) -> None:
        """Start workers, unless they are running.

        Raises:
            ExecutorError: They cannot be started.
        """
        ...

    def send(self, worker: int, chunk: Chunk) -> None:
        """Bring a chunk to a worker that is ready; it runs behind those that were sent before."""
        ...

    def events(self, timeout: float) -> Sequence[Event]:
        """What has happened, in order; empty when nothing does for ``timeout`` seconds.

        Raises:
            ExecutorError: There will be no workers.
        """
        ...

    def close(self) -> None:
        """End all workers; may be called again."""
        ...


@dataclass
class _Assigned:
    """A chunk at a worker, and which of its tasks have no evaluation yet."""

    chunk: Chunk
    left: dict[int, Task]


class PoolExecutor:
    """Runs tasks on the workers of a pool.

    Args:
        pool: The workers.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._at_work: dict[int, deque[_Assigned]] = {}
        self._chunk_numbers = count()
        self._pace = _Pace()
        self._failed_starts = 0

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Evaluation]]:
        """Each task's number and evaluation, once, as they finish."""
        board = _Board(tasks)
        self._pool.start()
        while board.is_open:
            self._assign(board)
            for event in self._pool.events(WAIT_SECONDS):
                if isinstance(event, WorkerReady):
                    self._at_work[event.worker] = deque()
                    self._failed_starts = 0
                elif isinstance(event, Finished):
                    yield from board.settle(self._finished(event))
                else:
                    yield from self._lost(event, board)

    def close(self) -> None:
        """End all workers."""
        self._at_work.clear()
        self._pool.close()

    def _assign(self, board: _Board) -> None:
        for depth in range(self._pace.depth):  # everybody gets a first chunk before anybody gets a second
            for worker, assigned in self._at_work.items():
                if len(assigned) > depth:
                    continue
                taken = board.take(self._pace.chunk_size(board.waiting, len(self._at_work)))
                if not taken:
                    return
                chunk = Chunk(next(self._chunk_numbers), taken)
                assigned.append(_Assigned(chunk, {task.number: task for task in taken}))
                self._pool.send(worker, chunk)

    def _finished(self, event: Finished) -> Iterator[tuple[Task, Evaluation]]:
        assigned = self._at_work.get(event.worker, deque())
        for entry in [entry for entry in assigned if entry.chunk.number == event.chunk]:
            for number, evaluation in event.evaluations:
                task = entry.left.pop(number, None)
                if task is not None:
                    self._pace.learn(evaluation.seconds)
                    yield task, evaluation
            if not entry.left:
                assigned.remove(entry)

    def _lost(self, event: WorkerGone, board: _Board) -> Iterator[tuple[int, Evaluation]]:
        if event.is_hopeless:
            raise ExecutorError(event.reason, hint="make it work with `--executor in-process` first, then `--resume`")
        if event.worker not in self._at_work:
            self._failed_starts += 1
            if self._failed_starts >= FAILED_STARTS:
                raise ExecutorError(
                    f"{FAILED_STARTS} workers in a row ended before they were ready, the last one: {event.reason}",
                    hint="use fewer workers if memory is short, or `--executor in-process`; then `--resume`",
                )
            return
        assigned = self._at_work.pop(event.worker)
        again = sum(len(entry.left) for entry in assigned)
        _logger.warning("worker %d has gone: %s; its evaluations are done again: %d", event.worker, event.reason, again)
        if assigned:
            running = assigned.popleft()
            yield from board.retry(running.left.values(), event.reason)
        for entry in assigned:
            board.give_back(entry.left.values())


class _Board:
    """The tasks of one call: which wait, and which have no evaluation yet."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._waiting = deque(tasks)
        self._open = {task.number: task for task in tasks}
        if len(self._open) != len(tasks):
            raise ValueError("two tasks have the same number")
        self._deaths: dict[int, int] = {}
        self._evaluated = self._lost = 0

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def take(self, size: int) -> tuple[Task, ...]:
        """The next tasks; one whose worker died goes alone, so that no other is lost with it."""
        taken: list[Task] = []
        while self._waiting and len(taken) < size:
            is_suspect = self._waiting[0].number in self._deaths
            if not (is_suspect and taken):
                taken.append(self._waiting.popleft())
            if is_suspect:
                break
        return tuple(taken)

    def settle(self, evaluations: Iterable[tuple[Task, Evaluation]]) -> Iterator[tuple[int, Evaluation]]:
        """The evaluations of tasks that are still open here; others are of a call that was abandoned."""
        for task, evaluation in evaluations:
            if self._open.get(task.number) is task:
                del self._open[task.number]
                self._evaluated += 1
                yield task.number, evaluation

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Put tasks in front that no worker had begun."""
        self._waiting.extendleft(task for task in reversed(list(tasks)) if self._open.get(task.number) is task)

    def retry(self, tasks: Iterable[Task], reason: str) -> Iterator[tuple[int, Evaluation]]:
        """Put tasks in front whose worker died over them; gives those that are lost for good."""
        for task in reversed(list(tasks)):
            if self._open.get(task.number) is not task:
                continue
            deaths = self._deaths[task.number] = self._deaths.get(task.number, 0) + 1
            if deaths < ATTEMPTS:
                self._waiting.appendleft(task)
                continue
            self._lost += 1
            if self._lost >= HOPELESS and not self._evaluated:
                raise ExecutorError(
                    f"no worker survives an evaluation, the last one: {reason}",
                    hint="make it work with `--executor in-process` first, then `--resume`",
                )
            del self._open[task.number]
            reason = f"its worker died {deaths} times, at last: {reason}"
            yield task.number, Evaluation(None, reason, 0.0, State.LOST)


class _Pace:
    """How long evaluations take lately, and so how many go together."""

    def __init__(self) -> None:
        self._seconds = math.nan

    def learn(self, seconds: float) -> None:
        self._seconds = seconds if math.isnan(self._seconds) else 0.9 * self._seconds + 0.1 * seconds

    @property
    def depth(self) -> int:
        """Chunks that a worker may have."""
        return 2 if self._seconds < LONG_SECONDS else 1

    def chunk_size(self, waiting: int, workers: int) -> int:
        """One until something is known, and never so many that workers at the end stand still."""
        if math.isnan(self._seconds):
            return 1
        fair = math.ceil(waiting / (2 * max(workers, 1)))
        return max(1, min(fair, int(CHUNK_SECONDS / max(self._seconds, 1e-6))))
