"""Searches in which nothing is evaluated: columns in memory, the same record as ever, and nothing heavy loaded."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nas
from latency_tables.predictor import Latencies
from nas.controllers import get_controller
from nas.errors import RunError
from nas.evaluation.evaluators import ScoreEvaluator
from nas.events import TrialFinished, ignore
from nas.executors.in_process import InProcessExecutor
from nas.objectives.bounds import Bounds, Device, Limit
from nas.objectives.objective import device_fronts, front_of, make_objectives
from nas.objectives.pareto import dominated_by, pareto_mask
from nas.objectives.quantities import CAPACITY, Quantity
from nas.records.trial import State, Trial
from nas.records.trial_record import read_trials
from nas.runs.run import Run
from nas.searching.batch import make_trial, plan_batch
from nas.searching.columnar_trials import ColumnarTrials, TrialLines
from nas.searching.loop import SearchLoop
from nas.searching.plan import Budget, Plan
from search_spaces import ArchitectureError, Genotypes, SearchSpace, get_space
from search_spaces.interruption import deferred_interrupt
from tests.support.searches import SizePredictor, two_devices

SPACE = get_space("elastic-mini")
OBJECTIVES = make_objectives(["params", "latency:phone", "latency:board"], None)
LIMIT = Limit("latency:phone", 3.0)


class UnsurePredictor(SizePredictor):
    """Has no evidence for every third network, and prices that need many digits."""

    def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
        found = super().population(space, genotypes)
        return Latencies(found.ms / 3, found.ms / 7, found.ms, "measured", genotypes.sum(axis=1) % 3 == 0)


def table_search(folder: Path, *, evaluations: int = 300, batch: int = 64, controller: str = "nsga2") -> SearchLoop:
    bounds = two_devices(LIMIT)
    problem = bounds.problem(OBJECTIVES, 0, evaluations, bounds.check())
    is_there = (folder / "settings.json").exists()
    with Run(folder, {"command": "search"}, resume=is_there) as run:
        made = get_controller(controller)(problem)
        loop = SearchLoop(run, bounds, Plan(OBJECTIVES, 0, batch), None, made, ignore, lambda: False)
        loop(Budget(evaluations, None))
    return loop


@pytest.mark.parametrize("name", ["elastic", "elastic-mini", "resnas"])
def test_lines_are_those_of_trials_byte_for_byte(name: str) -> None:
    space = get_space(name)
    devices = [Device('a "phone"', UnsurePredictor("macs"), ""), Device("tafel-\u00e4", SizePredictor("params"), "")]
    sampled = space.sample(200, np.random.default_rng(0))
    middle = float(np.median(Bounds(space, devices).predict(sampled).columns["params"]))
    bounds = Bounds(space, devices, [Limit("params", middle)])
    batch = plan_batch(bounds, np.concatenate([sampled, sampled[:5]]), set(), 40)
    trials = [make_trial(batch, number, None, "") for number in batch.numbers]
    lines = TrialLines(space).of(batch, batch.numbers)
    assert lines == [trial.to_line() for trial in trials]
    assert {trial.state for trial in trials} == {State.DONE, State.INFEASIBLE}
    assert TrialLines(space).of(batch, batch.numbers[7:9]) == lines[7:9]
    assert Trial.from_lines(lines, space) == [Trial.from_line(line, space) for line in lines] == trials


def test_prices_that_json_has_no_word_for_are_refused() -> None:
    class Endless(SizePredictor):
        def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
            found = super().population(space, genotypes)
            return Latencies(found.ms, found.low_ms, found.high_ms * np.inf, found.kind, found.extrapolated)

    bounds = Bounds(SPACE, [Device("phone", Endless("macs"), "")])
    batch = plan_batch(bounds, SPACE.sample(3, np.random.default_rng(0)), set(), 0)
    with pytest.raises(ValueError, match="latency predicted for `phone` is not finite"):
        TrialLines(SPACE).of(batch, batch.numbers)


def test_trials_become_objects_when_they_are_looked_at() -> None:
    bounds, sampled = two_devices(LIMIT), np.unique(SPACE.sample(90, np.random.default_rng(0)), axis=0)
    trials, whole = ColumnarTrials(SPACE), plan_batch(bounds, sampled, set(), 0)
    made = [make_trial(whole, number, None, "") for number in whole.numbers]
    for start in (0, 30, 60):
        trials.add(plan_batch(bounds, sampled[start : start + 30], set(), start))
    assert len(trials) == len(sampled)
    assert list(trials) == made
    assert [trials[number] for number in (0, 29, 30, -1)] == [made[number] for number in (0, 29, 30, -1)]
    assert trials[25:65:7] == made[25:65:7]
    assert list(trials.of([64, 3])) == [made[64], made[3]]
    with pytest.raises(IndexError):
        trials[len(sampled)]


def test_proposals_that_break_a_rule_are_refused() -> None:
    broken = SPACE.encode([SPACE.largest])
    broken[0, SPACE.columns["T2.width"]] = 99
    with pytest.raises(ArchitectureError, match="out of range"):
        plan_batch(two_devices(), broken, set(), 0)


@pytest.mark.parametrize("controller", ["local", "nsga2", "random"])
def test_fronts_and_record_are_those_of_all_trials(tmp_path: Path, controller: str) -> None:
    loop = table_search(tmp_path / "run", controller=controller)
    recorded = read_trials(tmp_path / "run" / "trials.jsonl", SPACE)
    assert list(loop.trials) == recorded
    done = [trial for trial in recorded if trial.state is State.DONE]
    assert len(done) == loop.evaluated == 300
    assert all(trial.latency["phone"].high_ms <= LIMIT.upper for trial in done)
    assert (len(recorded) > len(done)) == (controller == "nsga2")
    assert loop.front == front_of(recorded, OBJECTIVES)
    assert device_fronts(loop.contenders, OBJECTIVES) == device_fronts(recorded, OBJECTIVES)


@pytest.mark.parametrize("controller", ["local", "nsga2", "random"])
def test_search_that_was_cut_off_anywhere_ends_as_the_whole_one(tmp_path: Path, controller: str) -> None:
    whole = table_search(tmp_path / "whole", controller=controller)
    data = (tmp_path / "whole" / "trials.jsonl").read_bytes()
    for share in (0.0, 0.3, 0.77, 1.0):
        folder = tmp_path / f"cut-{share}"
        table_search(folder, evaluations=20, controller=controller)
        (folder / "trials.jsonl").write_bytes(data[: int(share * len(data))])
        again = table_search(folder, controller=controller)
        assert (folder / "trials.jsonl").read_bytes() == data
        assert again.front == whole.front
        assert again.evaluated == whole.evaluated


def test_record_of_another_search_is_noticed(tmp_path: Path) -> None:
    table_search(tmp_path / "run", controller="random")
    with pytest.raises(RunError, match="does not fit this search: trial"):
        table_search(tmp_path / "run", controller="local")


def test_lines_follow_those_that_are_there(tmp_path: Path) -> None:
    with Run(tmp_path / "run", {"command": "search"}) as run:
        run.append_lines(0, ["{}", "{}"])
        with pytest.raises(RunError, match="holds 2 trials, found trial 3"):
            run.append_lines(3, ["{}"])
        run.append_lines(2, ["{}"])
    assert (tmp_path / "run" / "trials.jsonl").read_text() == "{}\n" * 3


def test_a_batch_is_one_event_and_patience_counts_trials(tmp_path: Path) -> None:
    bounds = two_devices()
    problem = bounds.problem(OBJECTIVES, 0, None, bounds.check())
    events: list[object] = []
    with Run(tmp_path / "run", {"command": "search"}) as run:
        made = get_controller("random")(problem)
        loop = SearchLoop(run, bounds, Plan(OBJECTIVES, 0, 50), None, made, events.append, lambda: False)
        assert loop(Budget(None, None, patience=120)) == "patience"
    told = [event for event in events if isinstance(event, TrialFinished)]
    assert told[-1].trial == loop.trials[-1]
    assert told[-1].evaluated == loop.evaluated > 5 * len(told)
    front = max(trial.number for trial in loop.front)
    assert len(loop.trials) - 1 - front >= 120


def test_choices_that_disagree_with_the_genotype_are_damage(tmp_path: Path) -> None:
    table_search(tmp_path / "run", evaluations=20, controller="random")
    path = tmp_path / "run" / "trials.jsonl"
    lines = path.read_text().splitlines()
    document = json.loads(lines[3])
    document["choices"] = json.loads(lines[4])["choices"]
    path.write_text("\n".join([*lines[:3], json.dumps(document), *lines[4:], ""]))
    with pytest.raises(RunError, match="line 4 is damaged: choices and genotype disagree"):
        read_trials(path, SPACE)


@pytest.mark.parametrize("controller", ["random", "local"])
def test_a_search_of_tables_waits_for_neither_torch_nor_optuna(tmp_path: Path, controller: str) -> None:
    code = (
        "import sys, nas\n"
        f"nas.search('elastic-mini', objectives='params,macs,latency', controller={controller!r}, evaluations=60,"
        f" output={str(tmp_path / 'run')!r})\n"
        "print(sorted({'torch', 'timm', 'optuna', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert nas.load_result(tmp_path / "run").evaluated == 60


def test_the_first_interrupt_is_noted_and_the_second_one_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as interrupted:
        assert not interrupted.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("costs", [1, 2, 3, 4])
def test_fronts_agree_with_the_definition(costs: int) -> None:
    generator = np.random.default_rng(costs)
    points = generator.integers(0, 6, size=(400, costs)).astype(np.float64)
    points[::37] = np.nan

    def dominates(one: np.ndarray, other: np.ndarray) -> bool:
        return bool((one <= other).all() and (one < other).any())

    expected = [not np.isnan(p).any() and not any(dominates(other, p) for other in points) for p in points]
    assert pareto_mask(points).tolist() == expected
    some = points[:50]
    assert dominated_by(points, some).tolist() == [any(dominates(other, p) for other in some) for p in points]
    assert not dominated_by(points, some[:0]).any()


@pytest.mark.parametrize("controller", ["nsga2", "random", "evolution"])
def test_a_score_in_columns_gives_the_trials_of_one_that_is_evaluated(tmp_path: Path, controller: str) -> None:
    bounds = two_devices(LIMIT)
    objectives = make_objectives(["latency:phone"], "capacity")

    def search(folder: Path, score: Quantity | None, evaluations: int = 60) -> tuple[SearchLoop, list[object]]:
        problem = bounds.problem(objectives, 3, evaluations, bounds.check())
        executor = InProcessExecutor(ScoreEvaluator(SPACE, "capacity")) if score is None else None
        with Run(folder, {"command": "search"}, resume=(folder / "settings.json").exists()) as run:
            made = get_controller(controller)(problem)
            loop = SearchLoop(run, bounds, Plan(objectives, 3, score=score), executor, made, ignore, lambda: False)
            loop(Budget(evaluations, None))
        return loop, [replace(trial, seconds=0.0) for trial in read_trials(folder / "trials.jsonl", SPACE)]

    (columns, found), (_, expected) = search(tmp_path / "columns", CAPACITY), search(tmp_path / "alone", None)
    assert found == expected == list(columns.trials)
    assert columns.front == front_of(columns.trials, objectives)
    data = (tmp_path / "columns" / "trials.jsonl").read_bytes()
    assert data.decode().splitlines() == [trial.to_line() for trial in columns.trials]
    (tmp_path / "columns" / "trials.jsonl").write_bytes(data[: len(data) // 2])
    assert search(tmp_path / "columns", CAPACITY)[1] == expected
    assert (tmp_path / "columns" / "trials.jsonl").read_bytes() == data
    assert search(tmp_path / "alone", CAPACITY)[1] == expected
