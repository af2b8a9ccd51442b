"""The trials once more, as an Optuna journal that `optuna-dashboard` and Optuna's own tools open."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from nas.controllers.optuna_adapter import choice_distributions, study_directions
from nas.controllers.optuna_quiet import quiet_optuna
from nas.objectives.objective import Objective
from nas.records.files import write_failed
from nas.records.trial import State, Trial
from nas.records.trial_record import cut_torn_line
from search_spaces import SearchSpace
from search_spaces.files import replacing

JOURNAL_TRIALS = 20_000
"""Trials beyond are in ``trials.jsonl`` alone: a line of the journal takes 4 KB, and Optuna reads all of it at once."""
_STATES = {
    State.DONE: "COMPLETE",
    State.INFEASIBLE: "PRUNED",
    State.STOPPED: "PRUNED",
    State.FAILED: "FAIL",
    State.LOST: "FAIL",
}


class Journal:
    """Writes finished trials to a journal file, each exactly once.

    Trials out of bounds are `PRUNED` there, failed and lost ones `FAIL`; numbers agree with those in
    ``trials.jsonl``, which is written first and is the truth: what a kill left out or tore apart here is made good
    from there.

    Args:
        path: The journal; made if missing.
        space: What the trials are networks of.
        study: Name of the study.
        objectives: What the search optimises.
        trials: Everything recorded so far.

    Raises:
        NasError: The file cannot be written.
    """

    def __init__(
        self, path: Path, space: SearchSpace, study: str, objectives: Sequence[Objective], trials: Sequence[Trial]
    ) -> None:
        self._path = path
        self._study_name = study
        self._objectives = tuple(objectives)
        self._lines = _Lines(space, self._objectives)
        try:
            if path.exists():
                cut_torn_line(path)
                self._count = self._reconciled(trials[:JOURNAL_TRIALS])
            else:
                self._count = self._filled(path, trials[:JOURNAL_TRIALS])
        except OSError as error:
            raise write_failed(path, error) from error

    def append(self, trials: Sequence[Trial]) -> None:
        """Add finished trials, in order of their numbers, in one write; those beyond `JOURNAL_TRIALS` are left out.

        Nothing waits for the disk, since ``trials.jsonl`` has reached it already.

        Raises:
            NasError: The file cannot be written.
        """
        trials = trials[: JOURNAL_TRIALS - self._count]
        if not trials:
            return
        try:
            with open(self._path, "ab") as file:
                file.write(self._lines.of(trials))
        except OSError as error:
            raise write_failed(self._path, error) from error
        self._count += len(trials)

    def _reconciled(self, trials: Sequence[Trial]) -> int:
        """Add what the file lacks where it holds the first of ``trials``, else write it anew; the number it holds."""
        try:
            known = self._open(self._path).get_trials(deepcopy=False)
            is_prefix = len(known) <= len(trials) and all(
                dict(found.params) == dict(trial.architecture.settings) and found.state.name == _STATES[trial.state]
                for found, trial in zip(known, trials, strict=False)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            is_prefix = False
        if is_prefix:
            self._count = len(known)
            self.append(trials[len(known) :])
            return len(trials)
        with replacing(self._path) as temporary:
            self._filled(temporary, trials)
        return len(trials)

    def _filled(self, path: Path, trials: Sequence[Trial]) -> int:
        self._open(path)
        with open(path, "ab") as file:
            file.write(self._lines.of(trials))
        return len(trials)

    def _open(self, path: Path) -> optuna.Study:
        return open_study(_LocklessBackend(str(path)), self._study_name, self._objectives)


def open_study(backend: BaseJournalBackend, name: str, objectives: Sequence[Objective]) -> optuna.Study:
    """The study of that name in a journal; made, with its objectives named, if it is not there."""
    storage = optuna.storages.JournalStorage(backend)
    directions = study_directions(objectives)
    with quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            study = optuna.create_study(storage=storage, study_name=name, directions=directions)
        if study.metric_names is None:
            study.set_metric_names([_label(objective) for objective in objectives])
    return study


class _Lines:
    """The lines that `optuna.Study.add_trial` writes, fifty times as fast.

    Nearly all of a line is the same for every trial of a space: each choice with all its values. So Optuna's own
    `add_trial` writes one line into memory, and from then on only the fields that differ are put in.
    """

    def __init__(self, space: SearchSpace, objectives: tuple[Objective, ...]) -> None:
        self._objectives = objectives
        distributions = choice_distributions(space)
        self._indices = {
            choice.name: {value: distributions[choice.name].to_internal_repr(value) for value in choice.values}
            for choice in space.choices
        }
        backend = _Memory()
        example = optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED,
            params=dict(space.smallest.settings),
            distributions=dict(distributions),
        )
        open_study(backend, "example", objectives).add_trial(example)
        line = backend.logs[-1]
        for name in ("state", "value", "values", "datetime_start", "datetime_complete", "params", "user_attrs"):
            del line[name]
        self._constant = json.dumps(line, separators=(",", ":"))[:-1] + ","

    def of(self, trials: Iterable[Trial]) -> bytes:
        """The lines of trials, with their ends."""
        now = datetime.now(UTC)
        return "".join(self._line(trial, now) for trial in trials).encode()

    def _line(self, trial: Trial, now: datetime) -> str:
        is_done = trial.state is State.DONE
        values = [trial.value(objective.name) for objective in self._objectives] if is_done else None
        is_single = values is not None and len(values) == 1
        fields = {
            "state": optuna.trial.TrialState[_STATES[trial.state]].value,
            "value": values[0] if values is not None and is_single else None,
            "values": None if is_single else values,
            "datetime_start": (now - timedelta(seconds=trial.seconds)).isoformat(timespec="microseconds"),
            "datetime_complete": now.isoformat(timespec="microseconds"),
            "params": {name: self._indices[name][value] for name, value in trial.architecture.settings},
            "user_attrs": {
                "state": trial.state.value,
                "reason": trial.reason,
                "params": trial.params,
                "macs": trial.macs,
                "latency_ms": {target: latency.ms for target, latency in trial.latency.items()},
                "latency_high_ms": {target: latency.high_ms for target, latency in trial.latency.items()},
                "seconds": trial.seconds,
            },
        }
        return self._constant + json.dumps(fields, separators=(",", ":"))[1:] + "\n"


class _Memory(BaseJournalBackend):
    """A journal that is never written."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += logs

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]


class _LocklessBackend(JournalFileBackend):
    """Appends without a lock file, which a kill would leave behind: the run folder has one writer."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self._file_path, "ab") as file:
            file.write(lines.encode())


def _label(objective: Objective) -> str:
    return objective.name if objective.target is None else f"{objective.target} latency in ms"
