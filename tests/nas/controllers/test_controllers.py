"""Controllers: valid, fresh, deterministic proposals within the bound, at next to no cost."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import numpy as np
import pytest

from nas.controllers import SearchProblem, controller_names, get_controller, register_controller, registry
from nas.controllers.proposals import distinct, first_population, fresh_proposal, within_bound
from nas.objectives.pareto import hypervolume
from nas.testing import drive, toy_problem
from search_spaces import Genotypes, SearchSpace, UnknownNameError, get_space, population_cost

ELASTIC = get_space("elastic")
MINI = get_space("elastic-mini")


PROPOSERS = [name for name in controller_names() if name not in ("gp", "reinforce", "reinforce-value")]
"""Controllers that propose networks to find good ones, but for a slow one: REINFORCE samples its policy."""


def latency(space: SearchSpace, genotypes: Genotypes) -> np.ndarray:
    return population_cost(space, genotypes).macs / 1e6


def found(name: str, problem: SearchProblem, evaluations: int) -> tuple[list[Genotypes], np.ndarray]:
    """All proposals, and the costs (negative quality, latency) of those within the bound, ``[n, 2]``."""
    run = drive(get_controller(name)(problem), problem, evaluations)
    return run.proposals, run.costs


@pytest.mark.parametrize("name", PROPOSERS)
@pytest.mark.parametrize(("space", "limit"), [(ELASTIC, 400.0), (ELASTIC, 60.0), (MINI, 2.0)])
def test_proposals_are_valid_and_the_same_for_the_same_seed(name: str, space: SearchSpace, limit: float) -> None:
    evaluations = 14 if name == "predictor" else 30  # it takes its time, and predicts from the ninth on
    runs = [found(name, problem, evaluations) for problem in (toy_problem(space, limit),) * 2]
    proposals, costs = runs[0]
    assert space.is_valid(np.array(proposals)).all()
    assert np.array_equal(proposals, runs[1][0])
    assert len(costs) == evaluations


def test_nsga2_beats_random_search() -> None:
    volumes = {}
    for name in ("nsga2", "random"):
        problems = [toy_problem(ELASTIC, 400.0, seed) for seed in range(3)]
        runs = [found(name, problem, 150)[1] for problem in problems]
        volumes[name] = np.mean([hypervolume(costs, (0.0, 400.0)) for costs in runs])
    assert volumes["nsga2"] > 1.1 * volumes["random"]


def test_proposing_takes_milliseconds() -> None:
    problem = toy_problem(ELASTIC, 400.0)
    controller = get_controller("nsga2")(problem)
    drive(controller, problem, 20)
    started = time.thread_time()
    run = drive(controller, problem, 200)
    assert (time.thread_time() - started) / len(run.proposals) < 0.02


@pytest.mark.parametrize("name", PROPOSERS)
def test_few_networks_within_the_bound_are_all_found(name: str) -> None:
    neighbours = [MINI.encode([MINI.smallest])[0].copy() for _ in MINI.choices]
    for column, row in enumerate(neighbours):
        row[column] = 1
    limit = float(np.sort(latency(MINI, MINI.repair(np.array(neighbours))))[3])
    problem = toy_problem(MINI, limit)
    proposals, costs = found(name, problem, 1000)
    assert 4 <= len(costs) < 1000
    assert len(proposals) < 3000


def test_controllers_say_when_only_one_network_is_within_the_bound() -> None:
    smallest = MINI.encode([MINI.smallest])
    problem = toy_problem(MINI, float(latency(MINI, smallest)[0]))
    for name in PROPOSERS:
        _, costs = found(name, problem, 10)
        assert len(costs) == 1


def test_first_population_is_distinct_within_the_bound_and_spread() -> None:
    problem = toy_problem(ELASTIC, 400.0)
    population = first_population(problem, 30, np.random.default_rng(0))
    assert len(population) == len(distinct(population)) == 30
    assert (problem.excess(population) <= 0).all()
    named = within_bound(problem, ELASTIC.encode([ELASTIC.smallest, *ELASTIC.named.values()]))
    rows = {row.tobytes() for row in population}
    assert {row.tobytes() for row in named} <= rows
    figures = latency(ELASTIC, population)
    assert figures.max() > 350
    assert np.unique(np.digitize(figures, [100, 200, 300])).size == 4


def test_first_population_fills_up_under_a_tight_bound() -> None:
    smallest_ms = float(latency(ELASTIC, ELASTIC.encode([ELASTIC.smallest]))[0])
    problem = toy_problem(ELASTIC, 1.4 * smallest_ms)
    population = first_population(problem, 20, np.random.default_rng(0))
    assert len(population) == 20
    assert (problem.excess(population) <= 0).all()


def test_fresh_proposal_is_new_and_within_the_bound() -> None:
    problem = toy_problem(MINI, 2.0)
    parents = first_population(problem, 20, np.random.default_rng(0))
    seen = {row.tobytes() for row in parents}
    for seed in range(20):
        genotype = fresh_proposal(problem, seen, parents, np.random.default_rng(seed))
        assert genotype is not None
        assert genotype.tobytes() not in seen
        assert problem.excess(genotype[None])[0] <= 0


def test_unknown_controller_is_named_with_a_remedy() -> None:
    with pytest.raises(UnknownNameError, match="unknown controller: `nsga22`") as caught:
        get_controller("nsga22")
    assert caught.value.hint == "did you mean `nsga2`?"


def test_registered_controller_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.CONTROLLERS, "_registered", {})
    register_controller("mine", get_controller("random"))
    assert "mine" in controller_names()
    assert get_controller("mine") is get_controller("random")
    with pytest.raises(ValueError, match="registered already"):
        register_controller("mine", get_controller("random"))


def test_optuna_is_quiet_and_the_root_logger_untouched(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    root = logging.getLogger()
    before = (root.level, list(root.handlers), optuna.logging.get_verbosity())
    problem = toy_problem(MINI, 2.0)
    drive(get_controller("nsga2")(problem), problem, 30)
    assert (root.level, list(root.handlers), optuna.logging.get_verbosity()) == before
    assert capfd.readouterr().err == ""


def test_import_of_controllers_brings_in_neither_torch_nor_optuna() -> None:
    code = "import sys, nas, nas.controllers; print(sorted({'torch', 'optuna'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
