"""The search loop on a cheap objective: same seed, hard bound, record, replay."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest

from nas.controllers import Outcome, Outcomes
from nas.errors import InfeasibleError, RunError
from nas.evaluation.evaluators import EvaluationResult
from nas.events import SearchFinished, SearchStarted, TrialFinished, ignore
from nas.executors.in_process import InProcessExecutor
from nas.objectives.objective import front_of
from nas.records.trial import State
from nas.runs.run import Run
from nas.searching.loop import SearchLoop
from nas.searching.plan import Budget, Plan
from nas.searching.preview import preview_bounds
from search_spaces import Architecture, Genotypes, population_cost
from tests.support.searches import (
    LIMIT_MS,
    QUALITY_AND_LATENCY,
    SPACE,
    FakeEvaluator,
    journal_trials,
    make_bound,
    recorded,
    run_fake_search,
    timeless,
)


@pytest.mark.parametrize("controller", ["evolution", "nsga2", "predictor", "random"])
def test_same_seed_gives_the_same_trials_and_another_seed_others(tmp_path: Path, controller: str) -> None:
    asked = {"controller": controller, "evaluations": 20 if controller == "predictor" else 40}  # it takes its time
    first, second = (run_fake_search(tmp_path / name, **asked) for name in "ab")  # type: ignore[arg-type]
    other = run_fake_search(tmp_path / "c", **asked, seed=1)  # type: ignore[arg-type]
    assert timeless(first.trials) == timeless(second.trials) == recorded(tmp_path / "a")
    assert [trial.number for trial in first.front] == [trial.number for trial in second.front]
    assert [trial.genotype for trial in first.trials] != [trial.genotype for trial in other.trials]


@pytest.mark.parametrize("controller", ["nsga2", "predictor", "random"])
def test_bound_is_hard_and_free_of_charge(tmp_path: Path, controller: str) -> None:
    evaluator, evaluations = FakeEvaluator(), 20 if controller == "predictor" else 60
    loop = run_fake_search(tmp_path / "run", controller=controller, evaluator=evaluator, evaluations=evaluations)
    done = [trial for trial in loop.trials if trial.state is State.DONE]
    assert len(done) == len(evaluator.calls) == len(set(evaluator.calls)) == loop.evaluated == evaluations
    assert all(trial.latency["fake"].high_ms <= LIMIT_MS for trial in done)
    over = [trial for trial in loop.trials if trial.state is State.INFEASIBLE]
    assert all(trial.latency["fake"].high_ms > LIMIT_MS and "limit 3 ms" in trial.reason for trial in over)
    assert bool(over) == (controller == "nsga2")


def test_search_begins_with_named_networks_that_satisfy_the_bound(tmp_path: Path) -> None:
    loop = run_fake_search(tmp_path / "run", limit_ms=None, evaluations=4)
    assert [trial.architecture for trial in loop.trials[:3]] == [SPACE.smallest, SPACE.middle, SPACE.largest]


def test_front_is_that_of_all_done_trials(tmp_path: Path) -> None:
    loop = run_fake_search(tmp_path / "run")
    assert loop.front == front_of(loop.trials, QUALITY_AND_LATENCY)
    latencies = [trial.latency["fake"].ms for trial in loop.front]
    objectives = [trial.objectives["quality"] for trial in loop.front]
    assert latencies == sorted(latencies)
    assert objectives == sorted(objectives)
    assert len(loop.front) > 3


def test_journal_opens_with_optuna_and_holds_each_trial_once(tmp_path: Path) -> None:
    loop = run_fake_search(tmp_path / "run")
    trials = journal_trials(tmp_path / "run")
    assert [trial.params for trial in trials] == [dict(trial.architecture.settings) for trial in loop.trials]
    done = [trial for trial in trials if trial.state is optuna.trial.TrialState.COMPLETE]
    expected = [[t.objectives["quality"], t.latency["fake"].ms] for t in loop.trials if t.state is State.DONE]
    assert [trial.values for trial in done] == expected


def test_events_tell_the_story(tmp_path: Path) -> None:
    events: list[object] = []
    loop = run_fake_search(tmp_path / "run", progress=events.append)
    assert isinstance(events[0], SearchStarted)
    assert events[-1] == SearchFinished(tmp_path / "run", 40, len(loop.front), "evaluations")
    trials = [event for event in events if isinstance(event, TrialFinished)]
    assert [event.trial for event in trials] == loop.trials
    assert trials[-1].evaluated + trials[-1].infeasible == len(loop.trials)


def test_non_finite_objective_and_arithmetic_errors_fail_the_trial(tmp_path: Path) -> None:
    class Moody(FakeEvaluator):
        def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
            number = len(self.calls)
            result = super().evaluate(architecture, seed)
            if number == 1:
                raise OverflowError("too large")
            return EvaluationResult([math.nan, 0, math.inf][number], {}) if number < 3 else result

    loop = run_fake_search(tmp_path / "run", limit_ms=None, evaluator=Moody(), evaluations=10)
    failed = [trial for trial in loop.trials if trial.state is State.FAILED]
    assert [trial.number for trial in failed] == [0, 1, 2]
    assert failed[0].reason == "quality is nan, expected a finite number"
    assert failed[1].reason == "OverflowError: too large"
    assert loop.front
    assert all(trial.state is State.DONE for trial in loop.front)
    assert recorded(tmp_path / "run") == timeless(loop.trials)
    assert loop.evaluated == 10


def test_a_bound_that_one_network_satisfies_ends_by_itself(tmp_path: Path) -> None:
    bound = make_bound()
    lowest = float(bound.predict(bound.nearest()).latency["fake"].high_ms[0])
    loop = run_fake_search(tmp_path / "run", limit_ms=lowest, evaluations=50)
    assert [trial.architecture for trial in loop.front] == [SPACE.smallest]
    assert loop.evaluated < 50


def test_impossible_bound_names_the_nearest_network_and_the_miss(tmp_path: Path) -> None:
    smallest_ms = population_cost(SPACE, SPACE.encode([SPACE.smallest])).macs[0] / 1e6 * 1.1
    with pytest.raises(InfeasibleError, match="no network of `elastic-mini` stays within") as caught:
        run_fake_search(tmp_path / "run", limit_ms=smallest_ms / 2)
    assert caught.value.nearest == SPACE.smallest
    assert caught.value.high_ms == pytest.approx(smallest_ms)
    assert caught.value.miss_ms == pytest.approx(smallest_ms / 2)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "run").exists()


def test_preview_shows_ends_middle_and_share(tmp_path: Path) -> None:
    shown = preview_bounds(make_bound())
    names = [member.name for member in shown.members]
    assert names == ["fastest", "smallest", "middle", "largest"]
    macs = [member.macs for member in shown.members]
    assert macs[0] <= macs[1] < macs[2] < macs[3]
    assert shown.can_be_met
    assert 0 < shown.share_within < 1
    assert not preview_bounds(make_bound(0.001)).can_be_met


def test_time_budget_counts_earlier_sessions(tmp_path: Path) -> None:
    evaluator = FakeEvaluator(seconds=0.02)
    first = run_fake_search(tmp_path / "run", evaluations=None, seconds=0.4, evaluator=evaluator)
    assert 2 <= first.evaluated <= 25
    again = run_fake_search(tmp_path / "run", evaluations=None, seconds=0.1, resume=True)
    assert timeless(again.trials) == timeless(first.trials)
    more = run_fake_search(tmp_path / "run", evaluations=None, seconds=1.5, resume=True, evaluator=evaluator)
    assert more.evaluated > first.evaluated


def test_resume_after_a_cut_anywhere_gives_the_uninterrupted_run(tmp_path: Path) -> None:
    whole = run_fake_search(tmp_path / "whole")
    lines = (tmp_path / "whole" / "trials.jsonl").read_bytes()
    journal = (tmp_path / "whole" / "journal.log").read_bytes()
    generator = np.random.default_rng(0)
    for number in range(6):
        folder = tmp_path / f"cut{number}"
        run_fake_search(folder, evaluations=1)
        (folder / "trials.jsonl").write_bytes(lines[: generator.integers(len(lines))])
        renamed = journal.replace(b'"study_name":"whole"', f'"study_name":"{folder.name}"'.encode())
        (folder / "journal.log").write_bytes(renamed[: generator.integers(len(renamed))])
        resumed = run_fake_search(folder, resume=True)
        assert timeless(resumed.trials) == timeless(whole.trials) == recorded(folder)
        assert resumed.front == front_of(resumed.trials, QUALITY_AND_LATENCY)
        trials = journal_trials(folder)
        assert [trial.params for trial in trials] == [dict(t.architecture.settings) for t in resumed.trials]


@pytest.mark.parametrize(("controller", "stop_at", "evaluations"), [("nsga2", 7, 40), ("predictor", 14, 22)])
def test_interrupted_search_goes_on(tmp_path: Path, controller: str, stop_at: int, evaluations: int) -> None:
    search = partial(run_fake_search, controller=controller, evaluations=evaluations)
    whole, evaluator = search(tmp_path / "whole"), FakeEvaluator()
    search(tmp_path / "run", evaluator=evaluator, stop=lambda: len(evaluator.calls) >= stop_at)
    assert len(evaluator.calls) == stop_at
    resumed = search(tmp_path / "run", evaluator=evaluator, resume=True)
    assert len(evaluator.calls) == evaluations
    assert timeless(resumed.trials) == timeless(whole.trials)


def test_record_of_another_search_is_refused(tmp_path: Path) -> None:
    run_fake_search(tmp_path / "run")
    with pytest.raises(RunError, match=r"trials.jsonl` does not fit this search: trial \d+ is"):
        run_fake_search(tmp_path / "run", seed=1, resume=True)


def test_loop_remembers_for_controllers_that_repeat_themselves(tmp_path: Path) -> None:
    class Stubborn:
        def __init__(self) -> None:
            self.outcomes: list[Outcome] = []

        def ask(self, count: int) -> Genotypes:
            return SPACE.encode([SPACE.smallest])

        def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
            self.outcomes += list(outcomes)

    controller, evaluator = Stubborn(), FakeEvaluator()
    with Run(tmp_path / "run", {}) as run:
        executor = InProcessExecutor(evaluator)
        plan = Plan(QUALITY_AND_LATENCY, 0)
        loop = SearchLoop(run, make_bound(), plan, executor, controller, ignore, lambda: False)
        assert loop(Budget(10, None)) == "exhausted"
    assert len(evaluator.calls) == 1
    assert not controller.outcomes[0].is_repeated
    assert controller.outcomes[1].is_repeated
    assert controller.outcomes[1].costs == controller.outcomes[0].costs
