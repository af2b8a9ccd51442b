"""Evolution by the rules of ElasticViT and ViT-ResNAS: sizes, variation, the window, and that it finds what is good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from nas.controllers import Controller, Outcome, Outcomes, SearchProblem, get_controller
from nas.controllers.evolution import ELASTICVIT, LEAST, RESNAS, EvolutionController, EvolutionOptions, Variation
from nas.controllers.proposals import distinct
from nas.controllers.window import is_within_window, lowered_population
from nas.objectives.objective import Objective
from nas.records.trial import State
from nas.testing import toy_problem
from search_spaces import Choice, Genotypes, SearchSpace, Slot, get_space, population_cost

ELASTIC = get_space("elastic")
MINI = get_space("elastic-mini")
NAMES = ("evolution", "evolution-resnas")
ROWS = 4000
WEIGHTS = np.random.default_rng(7).random(len(ELASTIC.choices))


def megamacs(space: SearchSpace, genotypes: Genotypes) -> np.ndarray:
    return population_cost(space, genotypes).macs / 1e6


def make_problem(space: SearchSpace, limit: float, seed: int = 0) -> SearchProblem:
    return toy_problem(space, limit, seed)


def quality(space: SearchSpace, genotype: Genotypes) -> float:
    share = genotype / (space.cardinalities - 1)
    return float((WEIGHTS[: len(share)] * np.sqrt(share)).sum() - 0.3 * np.abs(share[4:] - share[:-4]).sum())


def drive(controller: Controller, space: SearchSpace, count: int, failing: int = 0) -> tuple[Genotypes, list[float]]:
    """Up to ``count`` proposals ``[n, c]`` and their quality; every ``failing``-th cannot be evaluated."""
    proposals: list[Genotypes] = []
    qualities: list[float] = []
    while len(proposals) < count:
        genotypes = controller.ask(1)
        if not len(genotypes):
            break
        fails = failing > 0 and len(proposals) % failing == 0
        value = math.nan if fails else quality(space, genotypes[0])
        proposals.append(genotypes[0])
        qualities.append(value)
        state = State.FAILED if fails else State.DONE
        controller.tell(genotypes, Outcomes.of([Outcome(state, (-value, 1.0), -1.0, False, {})]))
    return np.array(proposals, dtype=np.int8).reshape(-1, len(space.choices)), qualities


def variation(space: SearchSpace, options: EvolutionOptions) -> Variation:
    return Variation(space.choices, options, np.random.default_rng(0))


class SwitchSpace(SearchSpace):
    """Three blocks, the second and third of which may be missing."""

    name = "switches"
    image_side = 8
    classes = 2

    @property
    def choices(self) -> tuple[Choice, ...]:
        blocks = [
            (Choice(f"block{number}.heads", (3, 4, 5, 6)), Choice(f"block{number}.hidden", tuple(range(4, 11))))
            for number in range(3)
        ]
        switches = [Choice(f"block{number}.present", (0, 1)) for number in (1, 2)]
        return (Choice("width", (4, 6, 8)), *(choice for block in blocks for choice in block), *switches)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return ()

    def block(self, slot: str, values: Mapping[str, int]) -> None:
        raise NotImplementedError

    def input_shape(self, values: Mapping[str, int]) -> tuple[int, ...]:
        return (3, 8, 8)


SWITCHES = SwitchSpace()


def switch_cost(genotypes: Genotypes) -> np.ndarray:
    """Width times heads and hidden units of the blocks that are there, ``[n]``."""
    column = {choice.name: SWITCHES.values(genotypes, choice.name).astype(float) for choice in SWITCHES.choices}
    present = [1.0, column["block1.present"], column["block2.present"]]
    blocks = (present[k] * (4 * column[f"block{k}.heads"] + column[f"block{k}.hidden"]) for k in range(3))
    return np.asarray(column["width"] * sum(blocks))


def switch_problem(limit: float, seed: int = 0) -> SearchProblem:
    smallest = np.zeros((1, len(SWITCHES.choices)), dtype=np.int8)

    def excess(rows: Genotypes) -> np.ndarray:
        return (switch_cost(rows) - limit) / limit

    def known_costs(rows: Genotypes) -> np.ndarray:
        return np.stack([np.full(len(rows), np.nan), switch_cost(rows)], axis=1)

    objectives = (Objective("quality", is_evaluated=True), Objective("macs"))
    return SearchProblem(SWITCHES, seed, objectives, known_costs, excess, excess, smallest)


# -- what was published ----------------------------------------------------------------------------------------------


def test_presets_are_the_published_sizes_and_probabilities() -> None:
    sizes = [(o.population, o.generations, o.survivors, o.mutants, o.crossovers) for o in (ELASTICVIT, RESNAS)]
    assert sizes == [(512, 40, 256, 128, 128), (500, 19, 75, 75, 75)]
    assert (ELASTICVIT.evaluations, RESNAS.evaluations) == (512 + 40 * 256, 3350)
    assert (ELASTICVIT.depth_probability, ELASTICVIT.gene_probability, ELASTICVIT.uniform_share) == (0.4, 0.2, 0.45)
    assert (RESNAS.depth_probability, RESNAS.gene_probability, RESNAS.uniform_share) == (None, 0.3, 1.0)
    assert (ELASTICVIT.attempts, RESNAS.attempts) == (10, 100)
    assert RESNAS.lower_share == 0.975


def test_elasticvit_mutation_redraws_all_depths_or_none_and_favours_the_smallest() -> None:
    parents = np.repeat((ELASTIC.cardinalities - 1).astype(np.int8)[None], ROWS, axis=0)
    mutants = variation(ELASTIC, ELASTICVIT).mutate(parents, parents)
    is_depth = np.array([choice.name.endswith(".depth") for choice in ELASTIC.choices])
    depths, sizes = mutants[:, is_depth], ELASTIC.cardinalities[is_depth]
    # A redraw keeps the largest value with probability 0.45 / size; the mixture shows whether coins are common to all.
    is_untouched = (depths == sizes - 1).all(axis=1).mean()
    assert is_untouched == pytest.approx(0.6 + 0.4 * np.prod(0.45 / sizes), abs=0.03)
    for values, size, probability in zip(mutants.T, ELASTIC.cardinalities, np.where(is_depth, 0.4, 0.2), strict=True):
        assert np.mean(values == size - 1) == pytest.approx(1 - probability * (1 - 0.45 / size), abs=0.03)
        assert np.mean(values == 0) == pytest.approx(probability * (0.55 + 0.45 / size), abs=0.03)


def test_resnas_mutation_redraws_uniformly_and_flips_switches() -> None:
    parents = np.zeros((ROWS, len(SWITCHES.choices)), dtype=np.int8)
    mutants = variation(SWITCHES, RESNAS).mutate(parents, parents)
    for choice, values in zip(SWITCHES.choices, mutants.T, strict=True):
        size = len(choice.values)
        expected = 0.3 if size == 2 else 0.3 * (1 - 1 / size)
        assert np.mean(values > 0) == pytest.approx(expected, abs=0.03), choice.name
        others = np.bincount(values, minlength=size)[1:] / ROWS
        assert others == pytest.approx(np.full(size - 1, expected / (size - 1)), abs=0.03)


def test_elasticvit_crossover_inherits_kinds_whole_and_resnas_single_choices() -> None:
    first = np.zeros((ROWS, len(ELASTIC.choices)), dtype=np.int8)
    second = np.ones_like(first)
    kinds = np.array([choice.name.rpartition(".")[2] for choice in ELASTIC.choices])
    whole = variation(ELASTIC, ELASTICVIT).cross(first, second)
    for kind in set(kinds):
        columns = whole[:, kinds == kind]
        assert (columns == columns[:, :1]).all()
    single = variation(ELASTIC, RESNAS).cross(first, second)
    for children, groups in ((whole, len(set(kinds))), (single, len(kinds))):
        assert children.mean(axis=0) == pytest.approx(np.full(len(kinds), 0.5), abs=0.04)
        assert len(distinct(children)) == (2**groups if groups < 9 else len(children))


def test_parents_are_the_best_of_all_and_crossed_in_different_pairs() -> None:
    problem = make_problem(MINI, 1e9)
    controller = EvolutionController(problem, replace(RESNAS, population=40, survivors=5, lowers=False))
    proposals, qualities = drive(controller, MINI, 40)
    best = controller._best(5)
    assert np.array_equal(best, proposals[np.argsort(-np.array(qualities), kind="stable")[:5]])
    pairs = controller._pairs(5, 2000)
    assert (pairs[0] != pairs[1]).all()
    assert np.bincount(pairs[0], minlength=5) == pytest.approx(np.full(5, 400), abs=80)
    assert np.bincount(pairs[1], minlength=5) == pytest.approx(np.full(5, 400), abs=80)


def test_published_generations_are_half_mutants_and_half_crossovers() -> None:
    controller = EvolutionController(make_problem(ELASTIC, 400.0), replace(ELASTICVIT, grows=False))
    assert len(controller._queue) == 512
    drive(controller, ELASTIC, 513)
    assert len(controller._queue) == 255


def test_growing_sizes_keep_the_published_proportions_up_to_the_published_sizes() -> None:
    sizes = [
        (options.survivors, options.mutants, options.crossovers)
        for options in map(ELASTICVIT.grown, (20, 1000, ELASTICVIT.evaluations // 2, 10**6))
    ]
    assert sizes == [(LEAST, LEAST, LEAST), (24, 12, 12), (128, 64, 64), (256, 128, 128)]
    assert RESNAS.grown(20) is RESNAS


# -- the window ------------------------------------------------------------------------------------------------------


def test_window_is_a_share_of_the_bound_and_open_without_one() -> None:
    rows = ELASTIC.sample(ROWS, np.random.default_rng(0))
    figures = megamacs(ELASTIC, rows)
    problem = make_problem(ELASTIC, 600.0)
    assert np.array_equal(is_within_window(problem, rows, None), figures <= 600)
    inside = is_within_window(problem, rows, 0.975)
    assert 0 < inside.sum() < (figures <= 600).sum()
    assert np.array_equal(inside, (figures <= 600) & (figures >= 585))
    unbounded = replace(problem, excess=lambda genotypes: np.full(len(genotypes), -np.inf))
    assert is_within_window(unbounded, rows, 0.975).all()


def test_lowered_population_lies_in_the_window_and_lowers_fine_choices_first() -> None:
    problem = switch_problem(300.0)
    rows = lowered_population(problem, 200, 0.975, np.random.default_rng(0))
    assert len(rows) == len(distinct(rows)) == 200
    assert SWITCHES.is_valid(rows).all()
    figures = switch_cost(rows)
    assert figures.max() <= 300
    assert figures.min() >= 0.975 * 300
    coarse = [column for name, column in SWITCHES.columns.items() if name == "width" or "present" in name]
    close = lowered_population(switch_problem(800.0), 20, 0.975, np.random.default_rng(0))  # the largest has 816
    assert (close[:, coarse] == (SWITCHES.cardinalities - 1)[coarse]).all()
    assert len(close) >= 5


def test_lowered_population_lowers_widths_and_switches_when_nothing_else_is_left() -> None:
    least = float(switch_cost(np.zeros((1, len(SWITCHES.choices)), dtype=np.int8))[0])
    rows = lowered_population(switch_problem(least), 50, None, np.random.default_rng(0))
    assert len(rows) > 0
    assert (switch_cost(rows) == least).all()


@pytest.mark.parametrize(("space", "limit"), [(ELASTIC, 400.0), (MINI, 4.0)])
def test_resnas_keeps_within_the_window(space: SearchSpace, limit: float) -> None:
    options = replace(RESNAS, population=60, survivors=20, mutants=20, crossovers=20)
    proposals, _ = drive(EvolutionController(make_problem(space, limit), options), space, 160)
    figures = megamacs(space, proposals)
    assert len(proposals) == 160
    assert figures.max() <= limit
    assert figures.min() >= 0.975 * limit


def test_a_window_that_nothing_lies_in_falls_back_to_the_bound() -> None:
    largest = float(megamacs(MINI, MINI.encode([MINI.largest]))[0])
    options = replace(RESNAS, population=30, attempts=3)
    proposals, _ = drive(EvolutionController(make_problem(MINI, 2 * largest), options), MINI, 60)
    assert len(proposals) == len(distinct(proposals)) == 60


# -- the contract of controllers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("space", "limit"), [(ELASTIC, 60.0), (MINI, 2.0)])
def test_proposals_are_valid_new_within_the_bound_and_deterministic(
    name: str, space: SearchSpace, limit: float
) -> None:
    problem = make_problem(space, limit)
    proposals, _ = drive(get_controller(name)(problem), space, 80)
    again, _ = drive(get_controller(name)(problem), space, 80)
    other, _ = drive(get_controller(name)(make_problem(space, limit, seed=1)), space, 80)
    assert len(proposals) == len(distinct(proposals)) == 80
    assert space.is_valid(proposals).all()
    assert (problem.excess(proposals) <= 0).all()
    assert np.array_equal(proposals, again)
    assert not np.array_equal(proposals, other)


def test_proposals_do_not_depend_on_the_budget() -> None:
    problem = make_problem(MINI, 4.0)
    runs = [
        drive(get_controller("evolution")(replace(problem, evaluations=budget)), MINI, 90)[0]
        for budget in (90, 20_000, None)
    ]
    assert np.array_equal(runs[0], runs[1])
    assert np.array_equal(runs[0], runs[2])


@pytest.mark.parametrize("name", NAMES)
def test_few_networks_within_the_bound_are_found_and_then_no_more_is_proposed(name: str) -> None:
    rows = [np.zeros(len(MINI.choices), dtype=np.int8) for _ in MINI.choices]
    for column, row in enumerate(rows):
        row[column] = 1
    limit = float(np.sort(megamacs(MINI, MINI.repair(np.array(rows))))[1])
    everything = MINI.repair(np.concatenate([np.array(rows), np.zeros((1, len(rows)), dtype=np.int8)]))
    possible = distinct(everything[megamacs(MINI, everything) <= limit])
    proposals, _ = drive(get_controller(name)(make_problem(MINI, limit)), MINI, 1000)
    assert len(possible) <= len(proposals) == len(distinct(proposals)) < 1000
    assert {row.tobytes() for row in possible} <= {row.tobytes() for row in proposals}


def test_networks_that_failed_are_neither_parents_nor_proposed_again() -> None:
    controller = EvolutionController(make_problem(MINI, 4.0))
    proposals, qualities = drive(controller, MINI, 100, failing=3)
    failed = {row.tobytes() for row, value in zip(proposals, qualities, strict=True) if math.isnan(value)}
    assert len(proposals) == len(distinct(proposals)) == 100
    assert len(failed) == 34
    assert not failed & {row.tobytes() for row in controller._best(100)}
    nothing_works, _ = drive(EvolutionController(make_problem(MINI, 4.0)), MINI, 60, failing=1)
    assert len(distinct(nothing_works)) == 60


@pytest.mark.parametrize("name", NAMES)
def test_evolution_finds_better_networks_than_random_search(name: str) -> None:
    options = replace(RESNAS, population=60, survivors=20, mutants=20, crossovers=20)
    gains = []
    for seed in range(10):
        problem = make_problem(MINI, 4.0, seed)
        controller = EvolutionController(problem, ELASTICVIT if name == "evolution" else options)
        best = [max(drive(rival, MINI, 160)[1]) for rival in (controller, get_controller("random")(problem))]
        gains.append(best[0] - best[1])
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / math.sqrt(len(gains))
    assert sum(gain > 0 for gain in gains) >= 8
