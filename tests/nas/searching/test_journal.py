"""Optuna's journal: the lines that are put together here are those that Optuna would have written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from nas.controllers.optuna_adapter import choice_distributions
from nas.objectives.objective import Objective, latency_of
from nas.records.trial import State, Trial
from nas.searching import optuna_journal as journal
from nas.searching.optuna_journal import Journal, open_study
from tests.support.trials import SPACE, make_trial

ACCURACY = Objective("accuracy", is_evaluated=True)
TRIALS = [
    make_trial(0),
    replace(make_trial(1), state=State.INFEASIBLE, reason="over", objectives={}),
    replace(make_trial(2), state=State.FAILED, reason="no number", objectives={}),
    replace(make_trial(3), state=State.LOST, reason="its worker died", objectives={}),
    replace(make_trial(4), state=State.STOPPED, fidelity=0.25),
    make_trial(5),
]


def read(path: Path, objectives: tuple[Objective, ...]) -> list[optuna.trial.FrozenTrial]:
    return open_study(optuna.storages.journal.JournalFileBackend(str(path)), "run", objectives).trials


def by_optuna(path: Path, objectives: tuple[Objective, ...], trials: list[Trial]) -> None:
    """Write the same through `optuna.Study.add_trial`."""
    states = {"done": "COMPLETE", "infeasible": "PRUNED", "stopped": "PRUNED", "failed": "FAIL", "lost": "FAIL"}
    study = open_study(optuna.storages.journal.JournalFileBackend(str(path)), "run", objectives)
    for trial in trials:
        values = [trial.value(objective.name) for objective in objectives]
        study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState[states[trial.state.value]],
                values=values if trial.state is State.DONE else None,
                params=dict(trial.architecture.settings),
                distributions=choice_distributions(SPACE),
            )
        )


@pytest.mark.parametrize("objectives", [(ACCURACY,), (ACCURACY, latency_of("pixel6"), Objective("params"))])
def test_lines_are_those_that_optuna_writes(tmp_path: Path, objectives: tuple[Objective, ...]) -> None:
    log = Journal(tmp_path / "ours", SPACE, "run", objectives, TRIALS[:2])
    log.append(TRIALS[2:5])
    log.append(TRIALS[5:])
    by_optuna(tmp_path / "theirs", objectives, TRIALS)
    ours, theirs = read(tmp_path / "ours", objectives), read(tmp_path / "theirs", objectives)
    assert len(ours) == len(theirs) == len(TRIALS)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.number, one.state, one.values) == (other.number, other.state, other.values)
        assert (one.params, one.distributions) == (other.params, other.distributions)
    for one, trial in zip(ours, TRIALS, strict=True):
        assert (one.user_attrs["state"], one.user_attrs["reason"]) == (trial.state.value, trial.reason)
        assert one.duration is not None
        assert one.duration.total_seconds() == pytest.approx(trial.seconds)


def test_study_names_its_objectives_and_directions(tmp_path: Path) -> None:
    objectives = (ACCURACY, latency_of("pixel6"))
    Journal(tmp_path / "log", SPACE, "run", objectives, TRIALS)
    study = open_study(optuna.storages.journal.JournalFileBackend(str(tmp_path / "log")), "run", objectives)
    assert study.metric_names == ["accuracy", "pixel6 latency in ms"]
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert {trial.number for trial in study.best_trials} <= {0, 5}


def test_journal_ends_at_its_limit_and_is_resumed_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "JOURNAL_TRIALS", 4)
    log = Journal(tmp_path / "log", SPACE, "run", (ACCURACY,), TRIALS[:1])
    log.append(TRIALS[1:3])
    log.append(TRIALS[3:])
    written = (tmp_path / "log").read_bytes()
    assert [trial.number for trial in read(tmp_path / "log", (ACCURACY,))] == [0, 1, 2, 3]
    Journal(tmp_path / "log", SPACE, "run", (ACCURACY,), TRIALS).append([make_trial(6)])
    assert (tmp_path / "log").read_bytes() == written


def test_journal_of_other_trials_is_written_anew(tmp_path: Path) -> None:
    Journal(tmp_path / "log", SPACE, "run", (ACCURACY,), [make_trial(9), make_trial(8)])
    Journal(tmp_path / "log", SPACE, "run", (ACCURACY,), TRIALS)
    params = [trial.params for trial in read(tmp_path / "log", (ACCURACY,))]
    assert params == [dict(trial.architecture.settings) for trial in TRIALS]
