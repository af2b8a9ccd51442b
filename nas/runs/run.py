"""The run folder: all there is to know about one command, safe against being killed at any moment.

``settings.json`` says what was asked, ``environment.json`` with what it ran, ``trials.jsonl`` holds one line per
finished trial in the order of their numbers, ``running.jsonl`` the batch in flight, ``front.json`` the answer. One
process writes at a time, see `nas.runs.lock`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from nas.errors import RunError
from nas.records.files import read_json, write_json
from nas.records.trial import Trial
from nas.records.trial_record import TrialRecord
from nas.runs.environment import describe_environment
from nas.runs.folder import CHECKPOINTS, EXITS, FINISHED, recorded_settings
from nas.runs.lock import LEASE, RunLock
from nas.runs.places import FOLDER, PLACES
from search_spaces import SearchSpace
from search_spaces.files import remove_left_overs

SCHEMA = 1
OWN_FILES = (
    "settings.json",
    "settings.toml",
    "environment.json",
    "trials.jsonl",
    "running.jsonl",
    "journal.log",
    "front.json",
    "training.json",
    "finish.json",
    "report.html",
    "comparison.html",
)
OWN_FOLDERS = (CHECKPOINTS, "exports", FINISHED, EXITS)


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
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run folder `{path}` cannot be made: {error.strerror}") from error
        self._lock = RunLock(path)
        self._record = TrialRecord(path)
        try:
            self.is_resumed = self._prepare(resume, force)
            remove_left_overs(path)
            if self.is_resumed:
                self.settings = recorded_settings(path) or {}
                self._check_schema()
                self._note_session()
            elif settings is None:
                raise RunError(f"run folder `{path}` holds no `settings.json`", hint="start a run there first")
            else:
                self.settings = {"schema": SCHEMA, FOLDER: os.path.abspath(path), **settings}
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
        try:
            self._record.close()
        finally:
            self._lock.release()

    # -- trials --------------------------------------------------------------------------------------------------

    def load_trials(self, space: SearchSpace) -> list[Trial]:
        """The finished trials of earlier sessions, in order; a last line that a kill tore apart is cut off.

        To be called before anything is added to a resumed run.

        Raises:
            RunError: A line that is not the last cannot be read, or the numbers have a gap.
        """
        return self._record.load(space)

    @property
    def early_trials(self) -> Mapping[int, Trial]:
        """By number, the finished trials that wait for one with a lower number; a resumed run need not repeat them."""
        return self._record.early

    def start_trials(self, trials: Sequence[Trial]) -> None:
        """Note in ``running.jsonl`` what is to be evaluated now; for evaluations that take their time.

        Args:
            trials: What is known of them so far; those in `early_trials` stay as they are.

        Raises:
            RunError: Another process took the folder over.
            NasError: It cannot be written.
        """
        self._lock.check()
        self._record.start(trials)

    def append_trials(self, trials: Sequence[Trial]) -> list[Trial]:
        """Add finished trials in one write; when this returns they have reached the disk.

        ``trials.jsonl`` is kept in the order of the numbers. A trial that finished before one with a lower number
        waits in ``running.jsonl``, where a resumed run finds it.

        Returns:
            The trials that joined ``trials.jsonl``, those that had waited included.

        Raises:
            RunError: A trial is there already, or another process took the folder over.
            NasError: They cannot be written. The file then ends with the trial before.
        """
        self._lock.check()
        return self._record.append(trials)

    def append_lines(self, first: int, lines: Sequence[str]) -> None:
        """Add finished trials from number ``first`` on, as lines of text, in one write; as `append_trials` does.

        Raises:
            RunError: They do not follow those in the record, or another process took the folder over.
            NasError: They cannot be written. The file then ends with the trial before.
        """
        self._lock.check()
        self._record.append_lines(first, lines)

    def append_trial(self, trial: Trial) -> None:
        """Add the next finished trial, as `append_trials` does."""
        self.append_trials([trial])

    def update_settings(self, changes: Mapping[str, Any]) -> None:
        """Change recorded settings, for example a raised budget."""
        self._lock.check()
        if any(self.settings.get(name) != value for name, value in changes.items()):
            self.settings = {**self.settings, **changes}
            write_json(self.path / "settings.json", self.settings)

    def note_places(self, settings: Mapping[str, Any]) -> None:
        """Record where the run folder, and what the run was given, lie now; after it was found to be the same."""
        places = {name: settings[name] for name in PLACES if settings.get(name) is not None}
        self.update_settings({FOLDER: os.path.abspath(self.path), **places})

    def note_stages(self, seconds: Mapping[str, float]) -> None:
        """Record with the environment of this session what each of its stages took."""
        self._lock.check()
        path = self.path / "environment.json"
        document = read_json(path)
        session = document["resumed"][-1] if self.is_resumed else document
        session["stages"] = {name: round(spent, 1) for name, spent in seconds.items()}
        write_json(path, document)

    # -- opening -------------------------------------------------------------------------------------------------

    def _prepare(self, resume: bool, force: bool) -> bool:
        """Whether the folder holds a run to go on with."""
        found = sorted(entry.name for entry in self.path.iterdir() if entry.name != LEASE)
        link = next((name for name in OWN_FILES if (self.path / name).is_symlink()), None)
        if link is not None:
            raise RunError(
                f"run folder `{self.path}`: `{link}` is a link to `{os.readlink(self.path / link)}`, where nothing is"
                " written",
                hint="put the file itself in its place, or remove the link",
            )
        if force and not resume:
            self._clear()
            return False
        holds_run = "settings.json" in found
        # of a run that was killed before its settings were written; earlier versions left `lock` behind
        left_over = {"environment.json", "trials.jsonl", "lock"}
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
        if not isinstance(document.get("resumed", []), list):
            raise RunError(f"`{path}` is damaged: `resumed` is no list", hint="restore the file from a copy")
        session = describe_environment(document.get("seed", 0))
        if self._lock.stale is not None:
            session["killed_before"] = asdict(self._lock.stale)
        sessions = [*document.get("resumed", []), session]
        write_json(path, {**document, "resumed": sessions})
