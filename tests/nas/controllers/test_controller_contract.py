"""All registered controllers against the contract, and what the local search promises beyond it."""

from __future__ import annotations

import numpy as np
import pytest

from nas.controllers import Controller, SearchProblem, controller_names, get_controller
from nas.objectives.bounds import one_choice_changes
from nas.objectives.pareto import pareto_mask
from nas.testing import ControllerContract, drive, toy_problem


class Registered(ControllerContract):
    name: str

    def make_controller(self, problem: SearchProblem) -> Controller:
        return get_controller(self.name)(problem)


class TestEvolution(Registered):
    name = "evolution"


class TestEvolutionResnas(Registered):
    name = "evolution-resnas"


class TestExchange(Registered):
    name = "exchange"


@pytest.mark.slow
class TestGP(Registered):
    name = "gp"
    evaluations = 24


class TestLocal(Registered):
    name = "local"


class TestNSGA2(Registered):
    name = "nsga2"


class TestNSGA3(Registered):
    name = "nsga3"


class TestPredictor(Registered):
    name = "predictor"
    evaluations = 15


class TestRandom(Registered):
    name = "random"


class TestReinforce(Registered):
    name = "reinforce"
    settles = True


class TestReinforceValue(Registered):
    name = "reinforce-value"
    settles = True


class TestTPE(Registered):
    name = "tpe"


def test_every_controller_is_tested() -> None:
    assert sorted(tested.name for tested in Registered.__subclasses__()) == controller_names()


def test_local_search_proposes_neighbours_of_the_front_and_explores_all_of_them() -> None:
    problem = toy_problem(limit=4.0)
    controller = get_controller("local")(problem)
    run = drive(controller, problem, 20)
    front = [row for row, on_front in zip(run.proposals, pareto_mask(run.costs), strict=True) if on_front]
    asked = controller.ask(1)[0]
    assert min(int((asked != member).sum()) for member in front) >= 1
    neighbours = problem.space.repair(one_choice_changes(problem.space, np.array(front)))
    assert asked.tobytes() in {row.tobytes() for row in neighbours}


def test_local_search_ends_at_a_front_that_no_single_choice_improves() -> None:
    problem = toy_problem(limit=0.66)
    run = drive(get_controller("local")(problem), problem, 400)
    front = np.array(run.proposals)[pareto_mask(run.costs)]
    neighbours = problem.space.repair(one_choice_changes(problem.space, front))
    known = {row.tobytes() for row in run.proposals}
    within = neighbours[problem.excess(neighbours) <= 0]
    assert {row.tobytes() for row in within} <= known
