"""Exchange near a limit: measured losses say where to begin, what is learned where to go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nas.controllers import Controller, Outcome, Outcomes, SearchProblem, get_controller
from nas.controllers.exchange import LOSS, STARTS
from nas.controllers.proposals import within_bound
from nas.objectives.problem import Floats
from nas.records.trial import State
from nas.testing import toy_problem
from search_spaces import Genotypes, get_space
from tests.support.mixing_space import MixingSpace

MINI = get_space("elastic-mini")


def losses_by_choice(problem: SearchProblem, seed: int) -> list[Floats]:
    """What every choice costs by itself, the less the larger its value is."""
    generator = np.random.default_rng(seed)
    scales = generator.gamma(0.5, size=len(problem.space.choices))
    return [
        scale * np.linspace(1, 0, count) ** 2 for scale, count in zip(scales, problem.space.cardinalities, strict=True)
    ]


def true_loss(losses: list[Floats], genotype: Genotypes) -> float:
    """Losses that add up to more than their sum."""
    total = sum(float(loss[value]) for loss, value in zip(losses, genotype, strict=True))
    return total + 0.2 * total**2


def drive(controller: Controller, problem: SearchProblem, losses: list[Floats], steps: int) -> tuple[Genotypes, Floats]:
    """Proposals ``[n, c]``, all within the bounds, and their losses ``[n]``."""
    proposals, found = [], []
    while len(proposals) < steps and len(asked := controller.ask(2)):
        outcomes = []
        for genotype in asked:
            proposals.append(genotype)
            found.append(true_loss(losses, genotype))
            costs = (-round(1 / (1 + found[-1]), 1), float(problem.known_costs(genotype[None])[0, 1]))
            outcomes.append(Outcome(State.DONE, costs, -0.1, False, {LOSS: found[-1]}))
        controller.tell(asked, Outcomes.of(outcomes))
    rows = np.array(proposals, dtype=np.int8)
    assert (problem.excess(rows) <= 0).all()
    assert len(np.unique(rows, axis=0)) == len(rows)
    return rows, np.array(found)


@pytest.mark.parametrize("seed", range(3))
def test_it_finds_better_networks_than_the_predictor_under_a_limit(seed: int) -> None:
    problem = toy_problem(MINI, 3.0, seed)
    losses = losses_by_choice(problem, seed)
    told = replace(problem, sensitivities=losses)
    _, exchanged = drive(get_controller("exchange")(told), told, losses, 60)
    _, predicted = drive(get_controller("predictor")(problem), problem, losses, 60)
    assert exchanged.min() < predicted.min()
    assert exchanged[STARTS:].min() < exchanged[:STARTS].min() or exchanged.argmin() < STARTS


def test_it_learns_without_measured_losses_and_proposes_the_same_again() -> None:
    problem = toy_problem(MINI, 3.0)
    losses = losses_by_choice(problem, 5)
    rows, found = drive(get_controller("exchange")(problem), problem, losses, 80)
    again, _ = drive(get_controller("exchange")(problem), problem, losses, 80)
    assert np.array_equal(rows, again)
    drawn = within_bound(problem, MINI.sample(400, np.random.default_rng(0)))[:80]
    assert found.min() < min(true_loss(losses, genotype) for genotype in drawn)


def test_labels_are_labels_and_no_limit_is_none() -> None:
    problem = toy_problem(MixingSpace())
    losses = [np.linspace(1, 0, count) for count in problem.space.cardinalities]
    told = replace(problem, sensitivities=losses)
    rows, found = drive(get_controller("exchange")(told), told, losses, 30)
    assert found.min() == 0
    assert (rows[found.argmin()] == problem.space.cardinalities - 1).all()
