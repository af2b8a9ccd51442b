"""The run folder: all there is to know about one command, safe against being killed at any moment.

``settings.json`` says what was asked, ``environment.json`` with what it ran, ``trials.jsonl`` holds one line per
finished trial, ``front.json`` the answer. One process writes at a time; the lock is the operating system's, so it
ends with the process however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shutil
import socket
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from nas.environment import describe_environment
from nas.errors import NasError, RunError
from nas.files import read_json, write_failed, write_json
from nas.trial import Trial
from search_spaces import SearchSpace

SCHEMA = 1
OWN_FILES = (
    "settings.json",
    "environment.json",
    "trials.jsonl",
    "journal.log",
    "front.json",
    "training.json",
    "report.html",
)
OWN_FOLDERS = ("checkpoints", "exports")


def next_run_folder(name: str, parent: Path | None = None) -> Path:
    """Make and return the first free folder ``runs/<name>-<n>`` below ``parent`` (the current directory)."""
    runs = (parent or Path.cwd()) / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = runs / f"{name}-{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1


class Run:
    """One run folder, open for writing.

    Use it as a context manager; the lock is released at its end.

    Args:
        path: The folder; made if missing.
        settings: What was asked, JSON-ready; written to a fresh folder. None where the folder must hold it already.
        seed: Recorded with the environment.
        resume: Go on in a folder that holds an earlier run.
        force: Throw an earlier run away first.

    Attributes:
        path: The folder.
        settings: What the folder's run was asked: the given settings, or the recorded ones when it is resumed.
        is_resumed: Whether the folder held a run already.

    Raises:
        RunError: The folder is in use, holds something else, or holds a run and neither ``resume`` nor ``force`` is
            given.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any] | None,
        *,
        seed: int = 0,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self.path = path
        self._trials_size = 0
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run folder `{path}` cannot be made: {error.strerror}") from error
        self._lock = _Lock(path / "lock")
        try:
            self.is_resumed = self._prepare(resume, force)
            if self.is_resumed:
                self.settings = read_json(path / "settings.json")
                self._check_schema()
                self._note_session()
            elif settings is None:
                raise RunError(f"run folder `{path}` holds no `settings.json`", hint="start a run there first")
            else:
                self.settings = {"schema": SCHEMA, **settings}
                write_json(path / "environment.json", describe_environment(seed))
                (path / "trials.jsonl").write_bytes(b"")
                write_json(path / "settings.json", self.settings)  # last: with it the folder holds a run
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    # -- trials --------------------------------------------------------------------------------------------------

    def load_trials(self, space: SearchSpace) -> list[Trial]:
        """The finished trials of an earlier session; a last line that a kill tore apart is cut off.

        Raises:
            RunError: A line that is not the last cannot be read, or the numbers have a gap.
        """
        path = self.path / "trials.jsonl"
        self._trials_size = cut_torn_line(path)
        return read_trials(path, space)

    def append_trial(self, trial: Trial) -> None:
        """Add one finished trial; when this returns it has reached the disk.

        Raises:
            NasError: It cannot be written. The file then ends with the trial before.
        """
        path = self.path / "trials.jsonl"
        data = (trial.to_line() + "\n").encode()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, self._trials_size)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise write_failed(path, error) from error
        self._trials_size += len(data)

    def update_settings(self, changes: Mapping[str, Any]) -> None:
        """Change recorded settings, for example a raised budget."""
        if any(self.settings.get(name) != value for name, value in changes.items()):
            self.settings = {**self.settings, **changes}
            write_json(self.path / "settings.json", self.settings)

    # -- opening -------------------------------------------------------------------------------------------------

    def _prepare(self, resume: bool, force: bool) -> bool:
        """Whether the folder holds a run to go on with."""
        found = sorted(entry.name for entry in self.path.iterdir() if entry.name != "lock")
        if force and not resume:
            self._clear()
            return False
        holds_run = "settings.json" in found
        left_over = {"environment.json", "trials.jsonl"}  # of a run that was killed before its settings were written
        if not holds_run and all(name in left_over or name.endswith(".tmp") for name in found):
            return False
        if not resume:
            what = "holds a run already" if holds_run else f"is not empty: it holds `{found[0]}`"
            hint = "go on with `--resume`, " if holds_run else ""
            raise RunError(
                f"run folder `{self.path}` {what}", hint=f"{hint}throw it away with `--force`, or name another"
            )
        if not holds_run:
            raise RunError(
                f"`{self.path}` is not a run folder: it holds `{found[0]}` but no `settings.json`",
                hint="name the folder that `-o` named when the run was started",
            )
        return True

    def _clear(self) -> None:
        for name in OWN_FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in OWN_FOLDERS:
            folder = self.path / name
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)

    def _check_schema(self) -> None:
        found = self.settings.get("schema")
        if found != SCHEMA:
            raise RunError(
                f"run folder `{self.path}`: settings have schema {found!r}, expected {SCHEMA}",
                hint="it was written by another version of this program; use that one, or start a new run",
            )

    def _note_session(self) -> None:
        path = self.path / "environment.json"
        document = read_json(path)
        session = describe_environment(document.get("seed", 0))
        sessions = [*document.get("resumed", []), session]
        write_json(path, {**document, "resumed": sessions})


def read_trials(path: Path, space: SearchSpace) -> list[Trial]:
    """The trials in a ``trials.jsonl``; a last line without its end is left out.

    Raises:
        RunError: The file is missing, a line cannot be read, or the numbers have a gap.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise RunError(f"`{path}` cannot be read: {error.strerror}") from error
    trials = []
    for position, line in enumerate(lines):
        try:
            trial = Trial.from_line(line.decode(), space)
        except ValueError as error:
            raise RunError(
                f"`{path}` line {position + 1} is damaged: {error}",
                hint="restore the file from a copy, or start the run anew with `--force`",
            ) from error
        if trial.number != position:
            raise RunError(f"`{path}` line {position + 1} holds trial {trial.number}, expected trial {position}")
        trials.append(trial)
    return trials


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


class _Lock:
    """An exclusive lock on a file that says who holds it."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"run folder `{path.parent}` cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 4096, 0).decode(errors="replace")
            os.close(self._descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise RunError(f"run folder `{path.parent}` cannot be locked: {error.strerror}") from error
            raise RunError(
                f"run folder `{path.parent}` is in use by {_describe_holder(holder)}",
                hint="wait for it to end, or name another folder",
            ) from error
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._write(json.dumps({"pid": os.getpid(), "host": socket.gethostname() or platform.node(), "since": now}))

    def release(self) -> None:
        self._write("")
        os.close(self._descriptor)

    def _write(self, text: str) -> None:
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise NasError(f"the run's lock cannot be written: {error.strerror}") from error


def _describe_holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {holder['pid']} on `{holder['host']}` since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def _write_all(descriptor: int, data: bytes) -> None:
    """`os.write` may write less than it was given, which is how a filling disk shows first."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
