"""The record of a search: ``trials.jsonl``, in the order of the numbers, and ``running.jsonl``, the batch in flight.

A trial that finishes before one with a lower number waits in ``running.jsonl``. So the record has no gap that would not
be damage, whatever order workers finish in, and a kill loses no finished trial.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from nas.errors import RunError
from nas.records.files import write_failed, write_text
from nas.records.trial import State, Trial
from search_spaces import SearchSpace

TRIALS, RUNNING = "trials.jsonl", "running.jsonl"


class TrialRecord:
    """The trials of one run folder, open for writing by one process.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._trials = folder / TRIALS
        self._running = folder / RUNNING
        self._count = 0
        self._early: dict[int, Trial] = {}

    @property
    def early(self) -> Mapping[int, Trial]:
        """By number, the finished trials that wait for one with a lower number."""
        return self._early

    def load(self, space: SearchSpace) -> list[Trial]:
        """The finished trials in order; last lines that a kill tore apart are cut off.

        Raises:
            RunError: A line that is not the last cannot be read, or the numbers have a gap.
        """
        cut_torn_line(self._trials)
        trials = read_trials(self._trials, space)
        self._count, self._early = len(trials), {}
        if self._running.exists():
            cut_torn_line(self._running)
            for trial in _read_lines(self._running, space):
                if trial.state is not State.RUNNING and trial.number >= self._count:
                    self._early[trial.number] = trial
        return trials + self._append_next({})

    def start(self, trials: Iterable[Trial]) -> None:
        """Note what is to be evaluated; early trials stay."""
        running = [replace(trial, state=State.RUNNING) for trial in trials if trial.number not in self._early]
        lines = [trial.to_line() + "\n" for trial in [*self._early.values(), *running]]
        write_text(self._running, "".join(lines))

    def append(self, trials: Sequence[Trial]) -> list[Trial]:
        """Add finished trials, in any order; returns those that joined the record, early ones included."""
        new = {trial.number: trial for trial in trials}
        for number in new:
            if number < self._count or number in self._early:
                raise RunError(f"`{self._trials}` holds trial {number} already, found it once more")
        added = self._append_next(new)
        waiting = {number: trial for number, trial in new.items() if number >= self._count}
        if waiting:
            append_lines(self._running, [trial.to_line() for trial in waiting.values()])
            self._early |= waiting
        return added

    def append_lines(self, first: int, lines: Sequence[str]) -> None:
        """Add the lines of finished trials from number ``first`` on, for searches that have them ready as text."""
        if first != self._count:
            raise RunError(f"`{self._trials}` holds {self._count} trials, found trial {first} to follow them")
        append_lines(self._trials, lines)
        self._count += len(lines)

    def close(self) -> None:
        """Clear the batch in flight away where all of it is in the record."""
        if not self._early:
            self._running.unlink(missing_ok=True)

    def _append_next(self, new: Mapping[int, Trial]) -> list[Trial]:
        added: list[Trial] = []
        known = {**self._early, **new}
        while (number := self._count + len(added)) in known:
            added.append(known[number])
        if added:
            append_lines(self._trials, [trial.to_line() for trial in added])
            self._count += len(added)
            for trial in added:
                self._early.pop(trial.number, None)
        return added


def read_trials(path: Path, space: SearchSpace) -> list[Trial]:
    """The trials in a ``trials.jsonl``; a last line without its end is left out.

    Raises:
        RunError: The file is missing, a line cannot be read, or the numbers have a gap.
    """
    trials = _read_lines(path, space)
    for position, trial in enumerate(trials):
        if trial.number != position:
            raise RunError(f"`{path}` line {position + 1} holds trial {trial.number}, expected trial {position}")
    return trials


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Add lines in one write; when this returns they have reached the disk.

    Raises:
        NasError: They cannot be written. The file is then as it was.
    """
    data = "\n".join([*lines, ""]).encode()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise write_failed(path, error) from error


def cut_torn_line(path: Path) -> int:
    """Cut off what stands behind the last line end of ``path``, a write that was never finished; return the size.

    Raises:
        RunError: The file cannot be opened.
    """
    try:
        with path.open("r+b") as file:
            data = file.read()
            size = data.rfind(b"\n") + 1
            if size < len(data):
                file.truncate(size)
            return size
    except OSError as error:
        raise RunError(f"`{path}` cannot be read: {error.strerror}") from error


def _read_lines(path: Path, space: SearchSpace) -> list[Trial]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise RunError(f"`{path}` cannot be read: {error.strerror}") from error
    with _without_collection(), suppress(ValueError):
        return Trial.from_lines([line.decode() for line in lines], space)
    trials = []
    for position, line in enumerate(lines, start=1):  # to find out which line is damaged
        try:
            trials.append(Trial.from_line(line.decode(), space))
        except ValueError as error:
            raise RunError(
                f"`{path}` line {position} is damaged: {error}",
                hint="restore the file from a copy, or start the run anew with `--force`",
            ) from error
    return trials


def _write_all(descriptor: int, data: bytes) -> None:
    """`os.write` may write less than it was given, which is how a filling disk shows first."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keeps the garbage collector from walking through all trials again and again while thousands are made."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
