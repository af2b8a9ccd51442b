"""Trackers: what each package is told, with modules in their places that write it down."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import nas
from nas.errors import MissingDependencyError, NasError
from nas.events import Notice, TrialFinished
from nas.training.tracking import check_trackers, tracked
from search_spaces import UnknownNameError
from supernets.training.events import TrainingProgress, Validation

Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


class Recorder(ModuleType):
    """A module, or what its functions return: it writes calls down."""

    def __init__(self, name: str, calls: Calls) -> None:
        super().__init__(name)
        self.calls = calls

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*given: Any, **named: Any) -> Recorder:
            sys.stdout.write("a tracker talks\n")
            self.calls.append((name, given, named))
            return self

        return call


@pytest.fixture(params=["wandb", "mlflow", "trackio"])
def package(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    module = Recorder(request.param, [])
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def training(step: int) -> TrainingProgress:
    return TrainingProgress(step, 8, 0.5, 100.0, 1.0, 1e-3)


def test_points_of_both_series_are_told(package: Recorder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, seen = package.__name__, []
    with tracked([name, name], tmp_path / "run", {"seed": 3}, seen.append, every=2) as progress:
        for event in (training(1), training(2), Validation(2, 0.5, {"smallest": 0.25})):
            progress(event)
    assert seen == [training(1), training(2), Validation(2, 0.5, {"smallest": 0.25})]
    assert capsys.readouterr().out == ""
    told = [(given, named) for called, given, named in package.calls if called in ("log", "log_metrics")]
    points = [given[0] for given, _ in told]
    assert [point["training/loss"] for point in points[:1]] == [0.5]
    assert points[1]["training/accuracy/smallest"] == 0.25
    assert len(points) == 2
    steps = [named.get("step", given[0].get("training/step")) for given, named in told]
    assert steps == [2, 2]
    assert package.calls[-1][0] in ("finish", "end_run")
    assert any("run" in (named.get("name"), named.get("run_name")) for _, _, named in package.calls)


def test_one_that_fails_is_left_out_and_named(
    package: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route\nmore")

    name, seen = package.__name__, []
    for function in ("log", "log_metrics"):
        monkeypatch.setattr(package, function, fail, raising=False)
    with tracked([name], tmp_path, {}, seen.append) as progress:
        progress(training(1))
        progress(training(2))
    assert seen == [Notice(f"tracker `{name}` is left out from now on: no route"), training(1), training(2)]
    for function in ("init", "set_experiment"):
        monkeypatch.setattr(package, function, fail, raising=False)
    with (
        pytest.raises(NasError, match=f"tracker `{name}` cannot be started: no route"),
        tracked([name], tmp_path, {}, print),
    ):
        pass


def test_what_is_missing_is_named_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    for run in (nas.train, nas.finish, nas.search):
        with pytest.raises(MissingDependencyError) as caught:
            run(output=tmp_path / "run", track=["wandb"])
        assert caught.value.hint == "pip install 'nas-vit[wandb]'"
    with pytest.raises(UnknownNameError, match="unknown tracker: `wand`"):
        check_trackers(["wand"])
    assert not (tmp_path / "run").exists()


def test_a_search_reports_its_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Recorder("trackio", [])
    monkeypatch.setitem(sys.modules, "trackio", module)
    events: list[object] = []
    nas.search(space="elastic-mini", evaluations=40, output=tmp_path, track=["trackio"], progress=events.append)
    told = [given[0] for called, given, _ in module.calls if called == "log"]
    trials = [event for event in events if isinstance(event, TrialFinished)]
    assert [point["search/step"] for point in told] == [trial.evaluated for trial in trials]
    assert told[-1]["search/front_size"] == trials[-1].front_size
    assert told[-1]["search/latency/pixel6"] > 0
