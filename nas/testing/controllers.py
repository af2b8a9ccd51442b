"""What every controller has to do, and searches of made-up quality to try one in.

Legend of array suffixes: n proposals, c choices, k objectives.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from nas.controllers import Controller, Outcome, Outcomes, SearchProblem
from nas.objectives.objective import Objective
from nas.records.trial import State
from search_spaces import Genotypes, SearchSpace, get_space, population_cost

Floats = npt.NDArray[np.float64]
StateOf = Callable[[int], State]
"""What becomes of the n-th network within the bounds."""

QUALITY = Objective("quality", is_evaluated=True)
IDLE_LIMIT = 1000
"""A search ends after so many proposals in a row that are known already or out of bounds."""
LONGEST_MISS = 64
"""So many proposals in a row may be out of bounds while there are networks within."""


def toy_problem(
    space: SearchSpace | str = "elastic-mini", limit: float = math.inf, seed: int = 0, objectives: int = 2
) -> SearchProblem:
    """A problem whose quality is made up and whose costs are real, for tests.

    Args:
        space: What is searched.
        limit: Limit of MACs, in millions.
        seed: Seed of the controller.
        objectives: 1 for quality, 2 for quality and MACs, 3 for quality, MACs and parameters.
    """
    found = get_space(space) if isinstance(space, str) else space
    names = (QUALITY, Objective("macs"), Objective("params"))[:objectives]

    def known_costs(genotypes: Genotypes) -> Floats:
        cost = population_cost(found, genotypes)
        columns = [np.full(len(genotypes), np.nan), cost.macs / 1e6, cost.params / 1e6]
        return np.stack(columns[:objectives], axis=1)

    def excess(genotypes: Genotypes) -> Floats:
        megamacs_n: Floats = population_cost(found, genotypes).macs / 1e6
        return (megamacs_n - limit) / limit if math.isfinite(limit) else np.full(len(genotypes), -np.inf)

    smallest = found.encode([found.smallest])
    return SearchProblem(found, seed, names, known_costs, excess, excess, smallest)


def toy_quality(space: SearchSpace, genotype: Genotypes) -> float:
    """A quality that saturates in every choice and likes neighbouring choices alike."""
    share = genotype / np.maximum(space.cardinalities - 1, 1)
    weights = np.random.default_rng(7).random(len(share))
    return float((weights * np.sqrt(share)).sum() - 0.3 * np.abs(share[4:] - share[:-4]).sum())


@dataclass
class Drive:
    """What a controller proposed, and what it was told.

    Attributes:
        proposals: Each ``[c]``, in order.
        outcomes: Outcome of each proposal.
        ends: Whether the controller said that nothing new is left.
    """

    proposals: list[Genotypes] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    ends: bool = False

    @property
    def costs(self) -> Floats:
        """Of the networks that were done, once each, ``[n, k]``."""
        new = (outcome for outcome in self.outcomes if outcome.state is State.DONE and not outcome.is_repeated)
        return np.array([outcome.costs for outcome in new], dtype=np.float64)


def drive(
    controller: Controller,
    problem: SearchProblem,
    evaluations: int,
    batch: int = 1,
    state_of: StateOf = lambda number: State.DONE,
    quality: Callable[[Genotypes], float] | None = None,
) -> Drive:
    """Search as `nas.searching.loop` does, without a run: up to so many evaluations, or until nothing new turns up."""
    quality = quality or (lambda genotype: toy_quality(problem.space, genotype))
    done, memory, idle, evaluated = Drive(), dict[bytes, Outcome](), 0, 0
    while evaluated < evaluations and idle < IDLE_LIMIT:
        genotypes = controller.ask(batch)
        if not len(genotypes):
            done.ends = True
            break
        told: list[Outcome] = []
        for genotype, known_k, excess in zip(
            genotypes, problem.known_costs(genotypes), problem.excess(genotypes).tolist(), strict=True
        ):
            key = genotype.tobytes()
            is_repeated = key in memory
            if not is_repeated:
                state = State.INFEASIBLE if excess > 0 else state_of(evaluated)
                evaluated += excess <= 0
                if problem.objectives[0].is_evaluated:
                    known_k[0] = -quality(genotype) if state is State.DONE else math.nan
                memory[key] = Outcome(state, tuple(known_k.tolist()), excess, False, {})
            remembered = memory[key]
            idle = idle + 1 if is_repeated or remembered.state is State.INFEASIBLE else 0
            told.append(Outcome(remembered.state, remembered.costs, excess, is_repeated, {}))
        done.proposals += list(genotypes)
        done.outcomes += told
        controller.tell(genotypes, Outcomes.of(told))
    return done


class ControllerContract(ABC):
    """What every controller has to do. Subclass it, give `make_controller`, and let pytest find the subclass.

    Attributes:
        evaluations: Networks that each test evaluates; fewer where proposing takes long.
        settles: Whether proposals may repeat themselves without end, as those of a policy do.
    """

    evaluations: int = 40
    settles: bool = False

    @abstractmethod
    def make_controller(self, problem: SearchProblem) -> Controller:
        """A fresh controller."""

    @pytest.mark.parametrize("objectives", [1, 2, 3])
    @pytest.mark.parametrize("batch", [1, 7])
    def test_proposals_are_valid_and_the_same_for_the_same_seed(self, objectives: int, batch: int) -> None:
        """With one objective or more, asked for one network or several at once."""
        runs = [self._drive(toy_problem(limit=4.0, objectives=objectives), batch) for _ in range(2)]
        problem = toy_problem()
        proposals = np.array(runs[0].proposals)
        assert proposals.dtype == np.int8
        assert problem.space.is_valid(proposals).all()
        assert np.array_equal(proposals, np.array(runs[1].proposals))
        assert len(runs[0].costs) >= self.evaluations

    def test_another_seed_gives_other_proposals(self) -> None:
        """Sooner or later."""
        runs = [self._drive(toy_problem(limit=4.0, seed=seed)) for seed in (0, 1)]
        first, second = (np.array(run.proposals).tolist() for run in runs)
        assert first != second

    def test_a_batch_has_at_most_what_was_asked_for(self) -> None:
        """Whatever the controller has in store."""
        problem = toy_problem(limit=4.0)
        controller = self.make_controller(problem)
        for count in (1, 3, 64):
            genotypes = controller.ask(count)
            assert genotypes.ndim == 2
            assert 1 <= len(genotypes) <= count
            costs = problem.known_costs(genotypes)
            costs[:, 0] = [-toy_quality(problem.space, genotype) for genotype in genotypes]
            states = [State.INFEASIBLE if excess > 0 else State.DONE for excess in problem.excess(genotypes).tolist()]
            none: list[Mapping[str, float]] = [{}] * len(states)
            is_repeated = np.zeros(len(states), dtype=np.bool_)
            controller.tell(genotypes, Outcomes(states, costs, problem.excess(genotypes), is_repeated, none))

    def test_networks_out_of_bounds_are_left_before_long(self) -> None:
        """A tight limit is no dead end."""
        run = self._drive(toy_problem(limit=1.5))
        longest = streak = 0
        for outcome in run.outcomes:
            streak = streak + 1 if outcome.excess > 0 else 0
            longest = max(longest, streak)
        if not self.settles:
            assert longest <= LONGEST_MISS
            assert len(run.costs) >= self.evaluations

    def test_a_search_of_few_networks_ends(self) -> None:
        """All that are within the bounds are found once, and then nothing more is proposed."""
        problem = toy_problem()
        rows = np.concatenate([np.eye(len(problem.space.choices), dtype=np.int8), problem.feasible])
        costs = np.unique(problem.known_costs(problem.space.repair(rows))[:, 1])
        run = self._drive(toy_problem(limit=float(costs[2])), evaluations=1000)
        assert len(run.costs) < 1000
        assert self.settles or (run.ends and len(run.costs) >= 3)

    @pytest.mark.parametrize("state", [State.FAILED, State.LOST, State.STOPPED])
    @pytest.mark.parametrize("every", [3, 1])
    def test_networks_without_a_result_are_put_up_with(self, state: State, every: int) -> None:
        """Some of them, and all of them."""
        problem = toy_problem(limit=4.0)
        run = self._drive(problem, state_of=lambda number: State.DONE if number % every else state)
        assert sum(outcome.excess <= 0 and not outcome.is_repeated for outcome in run.outcomes) >= self.evaluations

    def _drive(
        self,
        problem: SearchProblem,
        batch: int = 1,
        evaluations: int | None = None,
        state_of: StateOf = lambda number: State.DONE,
    ) -> Drive:
        return drive(self.make_controller(problem), problem, evaluations or self.evaluations, batch, state_of)
