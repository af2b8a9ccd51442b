"""ViT-ResNAS's evolution on its own space: the window of MACs, the first population, children."""

from __future__ import annotations

import numpy as np
import pytest

from nas.controllers.base import Outcome, Outcomes
from nas.controllers.evolution import RESNAS, EvolutionController
from nas.controllers.proposals import distinct
from nas.controllers.window import lowered_population
from nas.objectives.objective import Objective
from nas.objectives.problem import SearchProblem
from nas.records.trial import State
from search_spaces import Genotypes, find_architecture, get_space, population_cost

TINY = get_space("resnas-tiny")
HAND_DESIGNED, RES_TINY = find_architecture("resnas/res-tiny")
LIMIT = HAND_DESIGNED.lower(RES_TINY).macs
"""What the published search was bounded by."""
WEIGHTS = np.random.default_rng(7).random(len(TINY.choices))


def make_problem(seed: int = 0) -> SearchProblem:
    def excess(genotypes: Genotypes) -> np.ndarray:
        return population_cost(TINY, genotypes).macs / LIMIT - 1

    return SearchProblem(
        TINY,
        seed,
        objectives=(Objective("accuracy", is_evaluated=True),),
        known_costs=lambda genotypes: np.full((len(genotypes), 1), np.nan),
        excess=excess,
        overshoot=excess,
        feasible=TINY.encode([TINY.smallest]),
    )


def quality(genotypes: Genotypes) -> np.ndarray:
    return np.asarray((WEIGHTS * np.sqrt(genotypes / (TINY.cardinalities - 1))).sum(axis=1))


def drive(controller: EvolutionController, count: int) -> Genotypes:
    asked: list[Genotypes] = []
    while sum(map(len, asked)) < count:
        rows = controller.ask(count)
        outcomes = [Outcome(State.DONE, (-value,), -0.01, False, {}) for value in quality(rows).tolist()]
        controller.tell(rows, Outcomes.of(outcomes))
        asked.append(rows)
    return np.concatenate(asked)


def test_the_first_population_is_lowered_into_the_window() -> None:
    rows = lowered_population(make_problem(), 500, 0.975, np.random.default_rng(0))
    assert len(rows) == len(distinct(rows)) == 500
    assert TINY.is_valid(rows).all()
    shares = population_cost(TINY, rows).macs / LIMIT
    assert shares.min() >= 0.975
    assert shares.max() <= 1
    for name, column in TINY.columns.items():
        if name.endswith((".width", ".present")):
            assert len(np.unique(rows[:, column])) == TINY.cardinalities[column], name


def test_missing_layers_have_nothing_that_could_be_lowered() -> None:
    rows = lowered_population(make_problem(), 100, 0.975, np.random.default_rng(1))
    for name, column in TINY.columns.items():
        if name.endswith(".present"):
            layer = name.removesuffix(".present")
            missing = rows[rows[:, column] == 0]
            assert not missing[:, [TINY.columns[f"{layer}.heads"], TINY.columns[f"{layer}.hidden"]]].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_every_proposal_lies_in_the_window_and_generations_are_the_published_ones(seed: int) -> None:
    controller = EvolutionController(make_problem(seed), RESNAS)
    rows = drive(controller, 500 + 2 * 150)
    assert len(rows) == len(distinct(rows)) == 500 + 2 * 150
    assert TINY.is_valid(rows).all()
    shares = population_cost(TINY, rows).macs / LIMIT
    assert shares.min() >= 0.975
    assert shares.max() <= 1
    children = quality(rows[500:])
    assert children.mean() > quality(rows[:500]).mean()


def test_the_command_line_tells_how_many_layers_a_stage_has() -> None:
    from nas.cli.display import describe

    assert describe(find_architecture("resnas/tiny")[1]) == "width 176-352-704, depth 5-6-5"
