"""REINFORCE: rewards, baseline, policy gradient, and As-ViT's seed search through the public function."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nas
from nas.controllers import Outcome, Outcomes, SearchProblem, SettlingController, get_controller
from nas.controllers.reinforce import (
    Baseline,
    CategoricalPolicy,
    MetricWindow,
    ReinforceController,
    ReinforceOptions,
    signed_metrics,
)
from nas.evaluation.evaluators import AsvitEvaluator, EvaluationResult
from nas.records.trial import State
from nas.scores.asvit import asvit_scores
from nas.searching import search as run_search
from nas.searching.resolution import resolve_settings
from nas.testing import toy_problem
from search_spaces import Architecture, Genotypes, get_space
from supernets import build_network

MINI = get_space("elastic-mini")
PUBLISHED = ReinforceOptions()


def problem(evaluations: int | None, seed: int = 8) -> SearchProblem:
    return replace(toy_problem(MINI, seed=seed), evaluations=evaluations)


def outcome(objective: float, state: State = State.DONE, **scores: float) -> Outcome:
    return Outcome(state, (-objective, 1.0), -math.inf, False, scores)


def drive(controller: ReinforceController, score: Any) -> list[Genotypes]:
    proposals = []
    while len(genotypes := controller.ask(1)):
        proposals.append(genotypes[0])
        controller.tell(genotypes, Outcomes.of([outcome(score(genotypes[0]))]))
    return proposals


def test_constant_metrics_earn_nothing() -> None:
    window = MetricWindow()
    assert [window.reward(3.0, PUBLISHED) for _ in range(30)] == [0.0] * 30


def test_alternating_metrics_earn_one() -> None:
    window = MetricWindow()
    rewards = [window.reward(value, PUBLISHED) for value in [1.0, 2.0] * 20]
    assert rewards[0] == 0
    assert rewards[1:] == pytest.approx([1.0, -1.0] * 19 + [1.0], abs=2e-6)


def test_range_is_that_of_twenty_values() -> None:
    window = MetricWindow()
    for value in [100.0] + [1.0, 2.0] * 10:
        reward = window.reward(value, PUBLISHED)
    assert reward == pytest.approx(1, abs=2e-6)


def test_a_failure_counts_as_the_worst_seen() -> None:
    window = MetricWindow()
    for value in (1.0, 3.0):
        window.reward(value, PUBLISHED)
    assert window.reward(None, PUBLISHED) == pytest.approx(-1, abs=2e-6)
    assert window.reward(math.nan, PUBLISHED) == 0


def test_value_reward_is_the_place_in_the_range() -> None:
    window, options = MetricWindow(), ReinforceOptions(rewards_value=True)
    rewards = [window.reward(value, options) for value in (1.0, 3.0, 2.0, 3.0)]
    assert rewards == pytest.approx([0, 1, 0, 1], abs=2e-6)


def test_metrics_of_an_outcome() -> None:
    both = outcome(1.0, ntk_condition=5.0, length_distortion=2.0)
    assert signed_metrics(both) == {"ntk_condition": -5.0, "length_distortion": 2.0}
    assert signed_metrics(outcome(0.7, cross_entropy=1.0)) == {"objective": 0.7}
    assert signed_metrics(outcome(math.nan, State.INFEASIBLE)) == {}


def test_first_baseline_is_the_first_reward() -> None:
    baseline = Baseline()
    assert baseline.update(0.7) == pytest.approx(0.7)
    assert baseline.update(0.1) == pytest.approx((0.9 * 0.7 + 0.1) / 1.9)


def test_policy_moves_as_torch_would() -> None:
    generator = np.random.default_rng(0)
    start = [generator.standard_normal(size) for size in (3, 5)]
    policy = CategoricalPolicy(start)
    logits = [torch.tensor(values, requires_grad=True) for values in start]
    adam = torch.optim.Adam(logits, lr=0.08)
    for _ in range(20):
        indices, advantage = [int(generator.integers(3)), int(generator.integers(5))], float(generator.normal())
        policy.step(indices, advantage)
        loss = -advantage * sum(
            torch.distributions.Categorical(logits=values).log_prob(torch.tensor(index))
            for values, index in zip(logits, indices, strict=True)
        )
        adam.zero_grad()
        loss.backward()
        adam.step()
    for found, values in zip(policy.probabilities(), logits, strict=True):
        assert found == pytest.approx(values.softmax(0).detach().numpy(), rel=1e-6)


@pytest.mark.parametrize("name", ["reinforce", "reinforce-value"])
def test_as_many_proposals_as_the_budget_and_the_same_for_the_same_seed(name: str) -> None:
    def score(genotype: Genotypes) -> float:
        return float(genotype.sum())

    runs = []
    for evaluations in (40, 40, 25):
        controller = get_controller(name)(problem(evaluations))
        assert isinstance(controller, ReinforceController)
        assert isinstance(controller, SettlingController)
        assert controller.settle() is None
        runs.append(drive(controller, score))
        assert MINI.is_valid(np.array([controller.settle()])).all()
    assert [len(run) for run in runs] == [40, 40, 25]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0][:25], runs[2])
    assert MINI.is_valid(np.array(runs[0])).all()


@pytest.mark.parametrize("name", ["reinforce", "reinforce-value"])
def test_policy_learns(name: str) -> None:
    weights = np.random.default_rng(3).normal(size=len(MINI.choices))

    def score(genotype: Genotypes) -> float:
        return float((weights * genotype / np.maximum(MINI.cardinalities - 1, 1)).sum())

    sample = np.array([score(row) for row in MINI.sample(500, np.random.default_rng(0))])
    controller = get_controller(name)(problem(300))
    assert isinstance(controller, ReinforceController)
    drive(controller, score)
    settled = controller.settle()
    assert settled is not None
    assert score(settled) > np.quantile(sample, 0.95)


def test_best_visited_is_settled_on_where_asked() -> None:
    controller = ReinforceController(problem(3), ReinforceOptions(settles_on_best=True))
    asked = []
    for condition, length in ((5.0, 1.0), (4.0, 2.0), (6.0, 3.0)):
        genotypes = controller.ask(1)
        asked.append(genotypes[0])
        told = outcome(0.0, ntk_condition=condition, length_distortion=length)
        controller.tell(genotypes, Outcomes.of([told]))
    assert np.array_equal(controller.settle(), asked[1])


# -- As-ViT's seed search ----------------------------------------------------------------------------------------------


class FakeEvaluator:
    """Prefers large kernels; both metrics at no cost."""

    score, name, is_free = AsvitEvaluator.score, AsvitEvaluator.name, False

    def __init__(self, space: Any, workers: int = 1) -> None:
        pass

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        total = float(sum(value for name, value in architecture.settings if name.endswith("kernel")))
        return EvaluationResult(total, {"ntk_condition": 100 / total, "length_distortion": total})


def test_defaults_are_the_papers() -> None:
    nothing = dict.fromkeys(("data", "supernet", "score", "seed", "evaluations", "budget_seconds"))
    settings = resolve_settings({**nothing, "controller": "reinforce"})
    assert (settings.score, settings.evaluations, settings.seed) == ("as-vit", 500, 8)
    settings = resolve_settings({**nothing, "controller": "reinforce", "seed": 1, "budget_seconds": 60.0})
    assert (settings.seed, settings.evaluations, settings.budget_seconds) == (1, None, 60)
    settings = resolve_settings({**nothing, "controller": "reinforce", "data": "digits"})
    assert (settings.score, settings.seed) == (None, 0)


def test_seed_search_settles_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_search, "untrained_evaluator", lambda space, score, workers: FakeEvaluator(space, workers))
    whole = nas.search("asvit", controller="reinforce", evaluations=60, output=tmp_path / "whole")
    assert whole.settled is not None
    assert whole.pick("settled") == whole.settled
    assert whole.settled.scores["length_distortion"] > 13
    lines = (tmp_path / "whole" / "trials.jsonl").read_text().splitlines()
    numbers = [json.loads(line)["number"] for line in lines]
    assert numbers == list(range(len(lines)))
    assert len(lines) <= 60

    nas.search("asvit", controller="reinforce", evaluations=20, output=tmp_path / "run")
    resumed = nas.search(output=tmp_path / "run", resume=True, evaluations=60)
    assert resumed.settled == whole.settled
    assert resumed.front == whole.front


def test_evaluator_gives_both_metrics() -> None:
    found = AsvitEvaluator(MINI).evaluate(MINI.smallest, 3)
    side = MINI.smallest["input.side"]
    expected = asvit_scores(lambda: build_network(MINI, MINI.smallest), image_side=side, seed=3)
    assert found.scores == {
        "ntk_condition": expected.ntk.value,
        "length_distortion": expected.length_distortion.value,
    }
    assert found.objective == pytest.approx(math.log(expected.length_distortion.value / expected.ntk.value))
