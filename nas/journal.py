"""The trials once more, as an Optuna journal that `optuna-dashboard` and Optuna's own tools open."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

from nas.controllers.nsga2 import choice_distributions
from nas.files import write_failed
from nas.optuna_quiet import quiet_optuna
from nas.run import cut_torn_line
from nas.trial import State, Trial
from search_spaces import SearchSpace

_STATES = {State.DONE: "COMPLETE", State.INFEASIBLE: "PRUNED", State.FAILED: "FAIL"}


class Journal:
    """Writes finished trials to a journal file, each exactly once.

    Trials over the bound are `PRUNED` there, failed ones `FAIL`; numbers agree with those in ``trials.jsonl``, which
    is written first and is the truth: what a kill left out or tore apart here is made good from there.

    Args:
        path: The journal; made if missing.
        space: What the trials are networks of.
        study: Name of the study.
        objective: Name of the maximised value; the other one is latency in milliseconds.
        target: Whose latency.
        trials: Everything recorded so far.

    Raises:
        NasError: The file cannot be written.
    """

    def __init__(
        self, path: Path, space: SearchSpace, study: str, objective: str, target: str, trials: Sequence[Trial]
    ) -> None:
        self._path = path
        self._target = target
        self._objective = objective
        self._distributions = choice_distributions(space)
        self._names = (study, objective)
        try:
            if path.exists():
                cut_torn_line(path)
                self._study = self._reconciled(trials)
            else:
                self._study = self._filled(path, trials)
        except OSError as error:
            raise write_failed(path, error) from error

    def append(self, trial: Trial) -> None:
        """Add one finished trial.

        Raises:
            NasError: The file cannot be written.
        """
        try:
            self._study.add_trial(self._frozen(trial))
        except OSError as error:
            raise write_failed(self._path, error) from error

    def _reconciled(self, trials: Sequence[Trial]) -> optuna.Study:
        """The study in the file where it holds the first of ``trials``, with the others added; else a new one."""
        try:
            study = self._open(self._path)
            known = study.get_trials(deepcopy=False)
            is_prefix = len(known) <= len(trials) and all(
                dict(found.params) == dict(trial.architecture.settings) and found.state.name == _STATES[trial.state]
                for found, trial in zip(known, trials, strict=False)
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            is_prefix = False
        if is_prefix:
            for trial in trials[len(known) :]:
                study.add_trial(self._frozen(trial))
            return study
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        self._filled(temporary, trials)
        os.replace(temporary, self._path)
        return self._open(self._path)

    def _filled(self, path: Path, trials: Sequence[Trial]) -> optuna.Study:
        study = self._open(path)
        for trial in trials:
            study.add_trial(self._frozen(trial))
        return study

    def _open(self, path: Path) -> optuna.Study:
        storage = optuna.storages.JournalStorage(_LocklessBackend(str(path)))
        name, objective = self._names
        directions = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
        with quiet_optuna(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
            if study.metric_names is None:
                study.set_metric_names([objective, f"{self._target} latency in ms"])
        return study

    def _frozen(self, trial: Trial) -> optuna.trial.FrozenTrial:
        latency = trial.latency[self._target]
        values = [trial.objectives[self._objective], latency.ms] if trial.state is State.DONE else None
        return optuna.trial.create_trial(
            state=optuna.trial.TrialState[_STATES[trial.state]],
            values=values,
            params=dict(trial.architecture.settings),
            distributions=self._distributions,
            user_attrs={
                "state": trial.state.value,
                "reason": trial.reason,
                "params": trial.params,
                "macs": trial.macs,
                "latency_ms": latency.ms,
                "latency_high_ms": latency.high_ms,
                "seconds": trial.seconds,
            },
        )


class _LocklessBackend(JournalFileBackend):
    """Appends without a lock file, which a kill would leave behind: the run folder has one writer.

    Nothing waits for the disk either, since ``trials.jsonl`` has reached it already.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self._file_path, "ab") as file:
            file.write(lines.encode())
