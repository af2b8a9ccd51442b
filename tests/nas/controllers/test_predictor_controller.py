"""The predictor as a controller: what an evaluation promises, and searches led by that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from nas.controllers import Controller, Outcome, Outcomes, SearchProblem, get_controller
from nas.controllers.improvement import Front, best_batch
from nas.controllers.predictor import LARGE, PER_SUGGESTION, SPREAD
from nas.controllers.proposals import within_bound
from nas.objectives.pareto import hypervolume, pareto_mask
from nas.predictors import FewLabelPredictor
from nas.records.trial import State
from nas.searching.resolution import resolve_settings, resume_settings
from nas.testing import toy_problem
from search_spaces import Genotypes, SearchSpace, get_space, population_cost

ELASTIC = get_space("elastic")
MINI = get_space("elastic-mini")

Quality = Callable[[Genotypes], float]


def make_problem(space: SearchSpace, limit: float, seed: int = 0) -> SearchProblem:
    return toy_problem(space, limit / 1.1, seed)


def curved_quality(space: SearchSpace) -> Quality:
    """Saturates in every choice and likes neighbouring choices alike; what no choice explains is noise."""
    weights = np.random.default_rng(7).random(len(space.choices))

    def quality(genotype: Genotypes) -> float:
        share = genotype / np.maximum(space.cardinalities - 1, 1)
        noise = np.random.default_rng(genotype.astype(np.uint8)).standard_normal()
        return float((weights * np.sqrt(share)).sum() - 0.3 * np.abs(share[4:] - share[:-4]).sum() + 0.05 * noise)

    return quality


def drive(
    controller: Controller, problem: SearchProblem, steps: int, quality: Quality, fails: Callable[[int], bool]
) -> tuple[Genotypes, np.ndarray]:
    """All proposals ``[n, c]``, and the costs (negative quality, latency) of those that did not fail."""
    proposals: list[Genotypes] = []
    costs: list[tuple[float, float]] = []
    for step in range(steps):
        genotypes = controller.ask(1)
        if not len(genotypes):
            break
        proposals.append(genotypes[0])
        ms, excess = float(problem.known_costs(genotypes)[0, 1]), float(problem.excess(genotypes)[0])
        value = math.nan if fails(step) else quality(genotypes[0])
        state = State.FAILED if fails(step) else State.DONE
        if state is State.DONE:
            costs.append((-value, ms))
        controller.tell(genotypes, Outcomes.of([Outcome(state, (-value, ms), excess, False, {})]))
    return np.array(proposals), np.array(costs)


def never(step: int) -> bool:
    return False


def random_results(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    latency = generator.integers(1, 12, count) / 2.0  # so that some are equal
    return latency, np.sqrt(latency) + generator.normal(0, 0.5, count)


@pytest.mark.parametrize("seed", range(5))
def test_improvement_of_a_certain_result_is_the_gain_in_hypervolume(seed: int) -> None:
    latency, quality = random_results(15, seed)
    candidates = np.random.default_rng(100 + seed).uniform([0.2, -1.0], [7.0, 4.0], size=(200, 2))
    worst, slowest = 0.5, 6.0
    front = Front.of(latency, quality, worst, slowest)
    gains = front.expected_improvement(candidates[:, 0], candidates[:, 1], np.zeros(200))
    costs = np.stack([-quality, latency], axis=1)
    before = hypervolume(costs, (-worst, slowest))
    after = [hypervolume(np.vstack([costs, (-value, ms)]), (-worst, slowest)) for ms, value in candidates]
    assert gains == pytest.approx(np.array(after) - before, abs=1e-9)
    assert (gains > 0.01).any()
    assert (gains == 0).any()


def test_improvement_of_an_uncertain_result_is_the_mean_gain() -> None:
    latency, quality = random_results(15, seed=0)
    front = Front.of(latency, quality, worst=0.5, slowest=6.0)
    draws = 2.0 + 0.4 * np.random.default_rng(1).standard_normal(100_000)
    for ms in (0.5, 2.2, 5.0):
        simulated = front.expected_improvement(np.full(len(draws), ms), draws, np.zeros(len(draws))).mean()
        expected = front.expected_improvement(np.array([ms]), np.array([2.0]), np.array([0.4]))[0]
        assert expected == pytest.approx(simulated, rel=0.03)


def test_batch_does_not_spend_two_evaluations_on_one_promise() -> None:
    front = Front.of(np.array([1.0, 5.0]), np.array([1.0, 2.0]), worst=0.0, slowest=6.0)
    latency, mean = np.array([3.0, 3.01, 4.5, 1.5]), np.array([1.9, 1.9, 2.1, 1.2])
    gains = front.expected_improvement(latency, mean, np.full(4, 0.01))
    assert np.argsort(-gains)[:2].tolist() == [0, 1]
    assert best_batch(front, latency, mean, np.full(4, 0.01), 3).tolist() == [0, 3, 2]
    assert sorted(best_batch(front, latency, mean, np.full(4, 0.01), 9).tolist()) == [0, 1, 2, 3]


def test_lazy_batch_is_the_greedy_one() -> None:
    latency, quality = random_results(15, seed=0)
    front = Front.of(latency, quality, worst=0.5, slowest=6.0)
    generator = np.random.default_rng(2)
    latency, mean, std = (generator.uniform(low, high, 200) for low, high in ((0.2, 7.0), (0.0, 3.0), (0.01, 0.5)))
    batch = best_batch(front, latency, mean, std, 60)
    greedy: list[int] = []
    for _ in range(60):
        gains = front.expected_improvement(latency, mean, std)
        gains[greedy] = -1.0
        greedy.append(int(np.argmax(gains)))
        front = front.with_point(latency[greedy[-1]], mean[greedy[-1]])
    assert batch.tolist() == greedy


@pytest.mark.parametrize(("space", "limit"), [pytest.param(ELASTIC, 400.0, marks=pytest.mark.slow), (MINI, 3.0)])
def test_fifty_evaluations_beat_two_hundred_random_ones(space: SearchSpace, limit: float) -> None:
    volumes: dict[str, list[float]] = {"predictor": [], "random": []}
    for seed in range(2):
        problem = make_problem(space, limit, seed)
        for name, steps in (("predictor", 50), ("random", 200)):
            _, costs = drive(get_controller(name)(problem), problem, steps, curved_quality(space), never)
            volumes[name].append(hypervolume(costs, (0.0, limit)))
    assert np.mean(volumes["predictor"]) > np.mean(volumes["random"])


def test_proposals_are_new_valid_and_within_the_bound_though_evaluations_fail() -> None:
    problem = make_problem(MINI, 2.0)

    def fails(step: int) -> bool:
        return step % 3 == 1

    proposals, costs = drive(get_controller("predictor")(problem), problem, 60, curved_quality(MINI), fails)
    assert len(np.unique(proposals, axis=0)) == len(proposals) == 60
    assert len(costs) == 40
    assert MINI.is_valid(proposals).all()
    assert (problem.excess(proposals) <= 0).all()


@pytest.mark.parametrize("fails", [lambda step: True, lambda step: step > 2, never], ids=["all", "most", "none"])
def test_search_goes_on_where_nothing_can_be_learnt(fails: Callable[[int], bool]) -> None:
    problem = make_problem(MINI, 2.0)
    proposals, _ = drive(get_controller("predictor")(problem), problem, 40, lambda genotype: 0.5, fails)
    assert len(np.unique(proposals, axis=0)) == 40


def test_failures_and_repetitions_are_no_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[int] = []
    fit = FewLabelPredictor.fit

    def counting_fit(self: FewLabelPredictor, encoded: object, labels_n: list[float]) -> FewLabelPredictor:
        labels.append(len(labels_n))
        return fit(self, encoded, labels_n)  # type: ignore[arg-type]

    monkeypatch.setattr(FewLabelPredictor, "fit", counting_fit)
    problem = make_problem(MINI, 2.0)
    controller = get_controller("predictor")(problem)
    quality = curved_quality(MINI)
    for genotype in MINI.sample(100, np.random.default_rng(3)):
        for is_repeated in (False, True):
            told = Outcome(State.DONE, (-quality(genotype), 1.0), -1.0, is_repeated, {})
            controller.tell(genotype[None], Outcomes.of([told]))
    drive(controller, problem, 8, quality, lambda step: True)
    assert not labels, "the first networks need no predictor"
    drive(controller, problem, 9, quality, never)
    assert labels == [100, 104, 108]


def test_first_networks_are_large_for_their_costs_and_others() -> None:
    problem = make_problem(MINI, 4.0)
    first = get_controller("predictor")(problem).ask(64)
    assert len(first) == LARGE + SPREAD
    assert first[0].tolist() == problem.feasible[0].tolist()
    costs = problem.known_costs(first)[:, 1]
    sampled = within_bound(problem, MINI.sample(4000, np.random.default_rng(9)))
    params, macs = population_cost(MINI, sampled).params, problem.known_costs(sampled)[:, 1]
    for genotype, cost in zip(first[1:LARGE], costs[1:LARGE], strict=True):
        alike = params[np.abs(np.log(macs / cost)) < 0.1]
        assert population_cost(MINI, genotype[None]).params[0] > np.quantile(alike, 0.8)
    assert (np.diff(np.log(costs[1:LARGE])) > 0.2).all()


def test_a_long_search_learns_from_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[int] = []
    monkeypatch.setattr("nas.controllers.predictor.MOST_LABELS", 40)
    fit = FewLabelPredictor.fit

    def counting_fit(self: FewLabelPredictor, encoded: object, labels_n: npt.NDArray[np.float64]) -> FewLabelPredictor:
        labels.append(len(labels_n))
        assert max(labels_n) == max(curved_quality(MINI)(genotype) for genotype in told)
        return fit(self, encoded, labels_n)  # type: ignore[arg-type]

    monkeypatch.setattr(FewLabelPredictor, "fit", counting_fit)
    problem = make_problem(MINI, 2.0)
    controller, told = get_controller("predictor")(problem), MINI.sample(90, np.random.default_rng(3))
    controller.ask(64)
    for genotype in told:
        costs = (-curved_quality(MINI)(genotype), float(problem.known_costs(genotype[None])[0, 1]))
        controller.tell(genotype[None], Outcomes.of([Outcome(State.DONE, costs, -1.0, False, {})]))
    assert len(controller.ask(5)) == 5
    assert labels == [40]


def test_the_predictor_leads_where_evaluations_cost_something(tmp_path: Path) -> None:
    assert resolve_settings({"supernet": "run"}).controller == "predictor"
    assert resolve_settings({"data": "digits"}).controller == "predictor"
    assert resolve_settings({"data": "digits", "controller": "nsga2"}).controller == "nsga2"
    assert resolve_settings({}).controller == "nsga2"
    assert resolve_settings({"score": "params"}).controller == "nsga2"


def test_resumed_run_keeps_its_controller(tmp_path: Path) -> None:
    given = dict.fromkeys(("space", "controller", "evaluations", "budget_seconds"))
    recorded = {**resolve_settings({"data": "digits", "controller": "nsga2"}).recorded(), "command": "search"}
    assert resume_settings(given, recorded, tmp_path).controller == "nsga2"


def neighbours_of(genotype: Genotypes, problem: SearchProblem) -> set[bytes]:
    """Everything one choice away and within the bounds, by trying all of them."""
    space = problem.space
    changed = [genotype.copy() for choice, size in enumerate(space.cardinalities) for _ in range(size)]
    values = [(choice, value) for choice, size in enumerate(space.cardinalities) for value in range(size)]
    for row, (choice, value) in zip(changed, values, strict=True):
        row[choice] = value
    return {row.tobytes() for row in within_bound(problem, space.repair(np.array(changed)))} - {genotype.tobytes()}


@pytest.mark.parametrize("count", [1, 7])
def test_each_proposal_is_a_neighbour_of_the_least_explored_member_of_the_front(count: int) -> None:
    problem, quality = make_problem(MINI, math.inf), curved_quality(MINI)
    controller = get_controller("predictor")(problem)
    known: list[Genotypes] = []
    costs: list[tuple[float, float]] = []
    for _ in range(20):
        genotypes = controller.ask(count)
        if len(known) > LARGE + SPREAD:
            on_front = [row for row, keep in zip(known, pareto_mask(np.array(costs)), strict=True) if keep]
            around = [neighbours_of(row, problem) for row in on_front]
            seen = {row.tobytes() for row in known}
            explored = [len(each & seen) if each - seen else math.inf for each in around]
            for genotype in genotypes:
                owners = [n for n, each in enumerate(around) if genotype.tobytes() in each]
                assert min(explored) in [explored[n] for n in owners]
                turn = next(n for n in owners if explored[n] == min(explored))
                explored[turn] += 1
                assert genotype.tobytes() not in seen
                seen.add(genotype.tobytes())
        told = [(-quality(row), float(problem.known_costs(row[None])[0, 1])) for row in genotypes]
        known += list(genotypes)
        costs += told
        outcomes = [Outcome(State.DONE, cost, -1.0, False, {}) for cost in told]
        controller.tell(genotypes, Outcomes.of(outcomes))
    assert len(known) > 2 * (LARGE + SPREAD)


def test_suggestions_within_the_bound_come_between_proposals() -> None:
    problem = make_problem(MINI, 2.0)
    drawn = problem.space.sample(200, np.random.default_rng(5))
    within, outside = within_bound(problem, drawn)[:3], drawn[problem.excess(drawn) > 0][:2]
    steps, quality = LARGE + SPREAD + 3 * (PER_SUGGESTION + 1), curved_quality(MINI)
    plain, _ = drive(get_controller("predictor")(problem), problem, steps, quality, never)
    for suggested in (np.concatenate([outside, within]), outside):
        asked, _ = drive(
            get_controller("predictor")(replace(problem, suggested=suggested)), problem, steps, quality, never
        )
        first = LARGE + SPREAD + 1
        assert (asked[:first] == plain[:first]).all()
        rows = [position for position, row in enumerate(asked) if (row == within).all(axis=1).any()]
        assert rows == ([first, first + PER_SUGGESTION, first + 2 * PER_SUGGESTION + 1] if len(suggested) > 2 else [])


def test_first_networks_within_a_limit_show_rare_values() -> None:
    problem = make_problem(MINI, 2.2)
    within = within_bound(problem, MINI.sample(4096, np.random.default_rng(1)))
    first = get_controller("predictor")(problem).ask(LARGE + SPREAD)
    assert problem.excess(first).max() <= 0
    shown = sum(len(set(first[:, column])) for column in range(len(MINI.choices)))
    there = sum(len(set(within[:, column])) for column in range(len(MINI.choices)))
    drawn = [within[np.random.default_rng(seed).choice(len(within), len(first))] for seed in range(9)]
    assert there >= shown > max(sum(len(set(rows[:, c])) for c in range(len(MINI.choices))) for rows in drawn)


def test_the_best_within_a_limit_is_found_where_its_side_is_rare() -> None:
    """As in tables of supernets: one choice matters most, and few networks within the limit have its better value."""
    problem = make_problem(MINI, 2.2)
    within = within_bound(problem, MINI.sample(20_000, np.random.default_rng(1)))
    side = MINI.columns["input.side"]
    assert 0 < (within[:, side] > 0).mean() < 0.2

    def quality(genotype: Genotypes) -> float:
        return float(10 * genotype[side] + curved_quality(MINI)(genotype))

    best = []
    for seed in range(3):
        _, costs = drive(get_controller("predictor")(replace(problem, seed=seed)), problem, 30, quality, never)
        best.append(-costs[:, 0].min())
    assert min(best) > np.quantile([quality(row) for row in within if row[side] > 0], 0.9)
