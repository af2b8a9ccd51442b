"""Several devices, several bounds, batches, fidelity and patience, on a cheap objective."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import nas
from nas.controllers import get_controller
from nas.errors import EvaluationError, UnsatisfiableError, UsageError
from nas.evaluation.evaluators import EvaluationResult
from nas.events import SearchFinished, ignore
from nas.executors.base import Evaluation, Task, evaluate_tasks
from nas.executors.in_process import InProcessExecutor
from nas.executors.successive_halving import RUNGS, best, charge
from nas.objectives.bounds import Limit
from nas.objectives.objective import (
    Objective,
    RunningFront,
    costs_of,
    device_fronts,
    front_of,
    latency_of,
    make_objectives,
)
from nas.records.trial import State
from nas.result import SearchResult
from nas.runs.front_document import FrontHeader, front_document, with_many
from nas.runs.run import Run
from nas.searching.loop import SearchLoop
from nas.searching.plan import Budget, Plan
from nas.searching.resolution import resolve_settings, resume_settings
from search_spaces import Architecture, population_cost
from tests.support.searches import (
    SPACE,
    FakeEvaluator,
    journal_trials,
    recorded,
    run_fake_search,
    timeless,
    two_devices,
)

TWO_DEVICES = make_objectives(["latency:phone", "latency:board", "params"], "quality")


LIMITS = (Limit("latency:phone", 4.0), Limit("latency:board", 4.5))


def search_two(folder: Path, controller: str, evaluations: int = 40, batch: int = 4) -> SearchLoop:
    bounds = two_devices(*LIMITS)
    problem = bounds.problem(TWO_DEVICES, 0, evaluations, bounds.check())
    with Run(folder, {"command": "search"}) as run:
        plan = Plan(TWO_DEVICES, 0, batch)
        executor = InProcessExecutor(FakeEvaluator())
        loop = SearchLoop(run, bounds, plan, executor, get_controller(controller)(problem), ignore, lambda: False)
        loop(Budget(evaluations, None))
    return loop


@pytest.mark.parametrize("controller", ["local", "nsga3"])
def test_every_network_of_two_devices_holds_both_bounds_and_each_front_is_a_single_devices(
    tmp_path: Path, controller: str
) -> None:
    loop = search_two(tmp_path / "run", controller)
    assert loop.evaluated == 40
    done = [trial for trial in loop.trials if trial.state is State.DONE]
    assert all(trial.latency["phone"].high_ms <= 4.0 and trial.latency["board"].high_ms <= 4.5 for trial in done)
    fronts = device_fronts(loop.trials, TWO_DEVICES)
    for target, front in fronts.items():
        alone = [
            trial
            for trial in done
            if not any(
                other.objectives["quality"] >= trial.objectives["quality"]
                and other.latency[target].ms <= trial.latency[target].ms
                and (other.objectives, other.latency[target]) != (trial.objectives, trial.latency[target])
                for other in done
            )
        ]
        assert {trial.number for trial in front} == {trial.number for trial in alone}
    assert loop.front == front_of(loop.trials, TWO_DEVICES)
    assert len(fronts["phone"]) < len(loop.front)


def test_document_of_two_devices_goes_into_a_result(tmp_path: Path) -> None:
    loop = search_two(tmp_path / "run", "local")
    header = FrontHeader(tmp_path, SPACE.name, 0, "phone", 4.0, "quality", sources=[])
    document = front_document(header, loop.front, 40)
    result = SearchResult(tmp_path, with_many(document, TWO_DEVICES, LIMITS, loop.trials))
    assert [objective.name for objective in result.objectives] == [objective.name for objective in TWO_DEVICES]
    assert {target: [m.number for m in front] for target, front in result.fronts.items()} == {
        target: [t.number for t in front] for target, front in device_fronts(loop.trials, TWO_DEVICES).items()
    }
    assert result.pick("board:fastest").latency["board"].ms == min(m.latency["board"].ms for m in result.front)
    assert result.pick("knee") in result.fronts["phone"]
    assert result.pick("best").objectives["quality"] == max(m.objectives["quality"] for m in result.front)
    with pytest.raises(UsageError, match="no front for `moon`"):
        result.pick("moon:knee")


def test_a_window_keeps_networks_between_its_ends() -> None:
    bounds = two_devices(Limit("macs", 4e6, 0.975 * 4e6))
    row = bounds.check()
    assert 3.9e6 <= population_cost(SPACE, row).macs[0] <= 4e6
    sample = SPACE.sample(2000, np.random.default_rng(0))
    measured, macs = bounds.predict(sample), population_cost(SPACE, sample).macs
    assert np.array_equal(bounds.excess(measured) <= 0, (macs >= 3.9e6) & (macs <= 4e6))
    assert np.array_equal(bounds.overshoot(measured) <= 0, macs <= 4e6)
    reasons = bounds.reasons(measured)
    assert [bool(reason) for reason in reasons] == (bounds.excess(measured) > 0).tolist()
    assert any("macs, expected from 3.9e+06 to 4e+06" in reason for reason in reasons)


def test_bounds_that_exclude_each_other_are_named() -> None:
    with pytest.raises(UnsatisfiableError, match="`latency:phone`, `macs`") as caught:
        two_devices(Limit("latency:phone", 1.0), Limit("macs", 9e6, 8e6)).check()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("controller", ["evolution", "nsga2", "predictor", "random"])
def test_results_depend_on_seed_and_batch_and_not_on_the_order_of_finishing(tmp_path: Path, controller: str) -> None:
    class Backwards:
        def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Evaluation]]:
            yield from reversed(list(evaluate_tasks(FakeEvaluator(), tasks)))

        def close(self) -> None:
            pass

    forwards = run_fake_search(tmp_path / "a", controller=controller, batch=6, evaluations=27)
    backwards = run_fake_search(tmp_path / "b", controller=controller, batch=6, evaluations=27, executor=Backwards())
    assert (
        timeless(forwards.trials) == timeless(backwards.trials) == recorded(tmp_path / "a") == recorded(tmp_path / "b")
    )
    assert forwards.evaluated == 27
    assert len(journal_trials(tmp_path / "b")) == len(backwards.trials)


def test_batches_cut_short_by_budget_or_interruption_are_taken_up_again(tmp_path: Path) -> None:
    whole = run_fake_search(tmp_path / "whole", batch=8, evaluations=40)
    run_fake_search(tmp_path / "raised", batch=8, evaluations=21)
    raised = run_fake_search(tmp_path / "raised", batch=8, evaluations=40, resume=True)
    assert timeless(raised.trials) == timeless(whole.trials)
    evaluator = FakeEvaluator()
    stopped = run_fake_search(
        tmp_path / "stopped", batch=8, evaluator=evaluator, stop=lambda: len(evaluator.calls) >= 21
    )
    assert stopped.evaluated == 21
    resumed = run_fake_search(tmp_path / "stopped", batch=8, evaluator=evaluator, resume=True)
    assert timeless(resumed.trials) == timeless(whole.trials)
    assert len(evaluator.calls) == 40


class Rough(FakeEvaluator):
    """Sees a network less clearly with less fidelity."""

    def __init__(self) -> None:
        super().__init__()
        self.fidelities: list[float] = []

    def evaluate_batch(
        self, architectures: Sequence[Architecture], seed: int, fidelity: float = 1.0
    ) -> list[EvaluationResult | EvaluationError]:
        self.fidelities += [fidelity] * len(architectures)
        found = [self.evaluate(architecture, seed) for architecture in architectures]
        return [EvaluationResult(round(result.objective * 9 * fidelity) / 9, result.scores) for result in found]


def test_halving_evaluates_a_third_more_closely_at_each_rung(tmp_path: Path) -> None:
    evaluator = Rough()
    loop = run_fake_search(
        tmp_path / "run", controller="random", limit_ms=None, batch=18, evaluator=evaluator, evaluations=12, rungs=RUNGS
    )
    by_state = {state: [t for t in loop.trials if t.state is state] for state in (State.STOPPED, State.DONE)}
    assert {trial.fidelity for trial in by_state[State.DONE]} == {1.0}
    assert {trial.fidelity for trial in by_state[State.STOPPED]} == {1 / 9, 1 / 3}
    first = evaluator.fidelities[: 16 + 6 + 2]  # the first population of random search has 16 networks
    assert first == [1 / 9] * 16 + [1 / 3] * 6 + [1.0] * 2
    assert all(trial.fidelity == 1.0 for trial in loop.front)
    resumed = run_fake_search(
        tmp_path / "run",
        controller="random",
        limit_ms=None,
        batch=18,
        evaluator=Rough(),
        evaluations=12,
        rungs=RUNGS,
        resume=True,
    )
    assert timeless(resumed.trials) == timeless(loop.trials)
    assert charge(1 / 9, RUNGS) == pytest.approx(1 / 9)
    assert charge(1.0, RUNGS) == pytest.approx(13 / 9)


def test_the_best_are_those_of_the_first_fronts_and_the_least_crowded() -> None:
    costs = np.array([[0.0, 4.0], [2.0, 2.0], [2.1, 1.9], [4.0, 0.0], [5.0, 5.0]])
    assert set(best(costs, 2).tolist()) == {0, 3}
    assert set(best(costs, 4).tolist()) == {0, 1, 2, 3}


def test_patience_ends_a_search_that_finds_nothing_new(tmp_path: Path) -> None:
    reasons: list[object] = []
    loop = run_fake_search(tmp_path / "run", controller="random", evaluations=400, patience=15, progress=reasons.append)
    assert isinstance(reasons[-1], SearchFinished)
    assert reasons[-1].reason == "patience"
    front = RunningFront(loop._plan.objectives)
    entering = [
        bool(front.add([t], np.array([costs_of(t, loop._plan.objectives)])).any())
        for t in loop.trials
        if t.state is State.DONE
    ]
    assert not any(entering[-15:])
    assert entering[-16]
    again = run_fake_search(tmp_path / "run", controller="random", evaluations=400, patience=15, resume=True)
    assert len(again.trials) == len(loop.trials)


def test_running_front_equals_the_front_of_everything() -> None:
    generator = np.random.default_rng(0)
    objectives = (Objective("macs"), Objective("params"), latency_of("phone"))
    bounds = two_devices()
    rows = SPACE.sample(300, generator)
    from nas.searching.batch import make_trial, plan_batch

    batch = plan_batch(bounds, np.unique(rows, axis=0), {}, 0)
    trials = [make_trial(batch, number, None, "") for number in batch.numbers]
    front = RunningFront(objectives)
    for start in range(0, len(trials), 37):
        part = trials[start : start + 37]
        front.add(part, np.array([costs_of(trial, objectives) for trial in part]))
    assert {t.number for t in front.trials} == {t.number for t in front_of(trials, objectives)}


# -- questions ---------------------------------------------------------------------------------------------------------


def test_what_is_asked_becomes_settings(tmp_path: Path) -> None:
    asked = {
        "objectives": ["capacity", "latency:pixel6", "latency:local", "params"],
        "limits": {"pixel6": 12.0, "local": 3.0},
    }
    settings = resolve_settings(asked)
    assert (settings.target, settings.limit_ms, settings.limits) == ("pixel6", 12.0, {"local": 3.0})
    assert settings.targets == ["pixel6", "local"]
    assert (settings.score, settings.evaluates) == ("capacity", True)
    assert [(limit.name, limit.upper) for limit in settings.bounds] == [
        ("latency:pixel6", 12.0),
        ("latency:local", 3.0),
    ]
    recorded = {**settings.recorded(), "command": "search"}
    assert resume_settings(asked, recorded, tmp_path) == settings
    assert resume_settings({"evaluations": 7}, recorded, tmp_path).evaluations == 7
    window = resolve_settings({"macs": 1.7944e9})
    assert (window.controller, window.evaluations) == ("evolution-resnas", 3350)
    assert window.bounds == [Limit("macs", 1.7944e9, 0.975 * 1.7944e9)]
    assert resolve_settings({"macs": 2e9, "window": 0.0}).controller == "nsga2"
    table = resolve_settings({"objectives": ["params", "latency"]})
    assert (table.score, table.evaluates, table.controller) == (None, False, "local")


def test_settings_of_older_runs_are_read(tmp_path: Path) -> None:
    old = {"command": "search", "space": "elastic-mini", "target": "pixel6", "limit_ms": 1.0, "evaluations": 5}
    settings = resume_settings({}, {**old, "schema": 1, "controller": "random"}, tmp_path)
    assert (settings.batch, settings.objectives, settings.limits) == (1, None, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objectives": ["accuracy", "latency"]}, "`accuracy` needs trained weights"),
        ({"objectives": ["balanced_accuracy", "latency"]}, "`balanced_accuracy` needs trained weights"),
        ({"objectives": ["balanced_accuracy", "accuracy"], "data": "digits"}, "all have to be evaluated"),
        ({"objectives": ["params"], "data": "digits"}, "expected `accuracy` among them"),
        ({"objectives": ["zico", "naswot"]}, "all have to be evaluated"),
        ({"objectives": ["params", "params"]}, "more than once"),
        ({"objectives": ["params", "latency:"]}, "found `latency:`"),
        ({"objectives": ["params"], "score": "naswot"}, "is not among the objectives"),
        ({"limits": {"pixel6": 2.0}, "limit_ms": 3.0}, "two limits for `pixel6`"),
        ({"window": 1.0}, "`window` is 1.0"),
        ({"fidelity": "most"}, "expected 'full' or 'halving'"),
        ({"fidelity": "halving"}, "cannot be evaluated by halves"),
        ({"fidelity": "halving", "supernet": "run", "batch": 4}, "at least 9 at once"),
    ],
)
def test_contradictions_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_settings(given)


def test_search_over_what_is_known_evaluates_nothing_and_keeps_its_bounds(tmp_path: Path) -> None:
    result = nas.search(
        "elastic-mini",
        objectives="params,latency:pixel6,latency:snapdragon855",
        limits={"snapdragon855": 2.0},
        macs=6e6,
        window=0.5,
        evaluations=200,
        controller="random",
        output=tmp_path / "run",
    )
    assert result.evaluated == 200
    assert set(result.fronts) == {"pixel6", "snapdragon855"}
    members = [*result.front, *(member for front in result.fronts.values() for member in front)]
    assert all(member.latency["snapdragon855"].high_ms <= 2.0 and 3e6 <= member.macs <= 6e6 for member in members)
    assert result.objective == "params"
    assert result.pick("best").params == min(member.params for member in members)
    assert not (tmp_path / "run" / "journal.log").exists()
    assert result.report().exists()
    again = nas.search(output=tmp_path / "run", resume=True)
    assert again.document == result.document
