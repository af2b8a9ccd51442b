"""A controller that changes one choice of the best network so far, or of any other."""

from __future__ import annotations

import numpy as np

from nas.controllers import Outcomes, SearchProblem
from search_spaces import Genotypes


class Cautious:
    def __init__(self, problem: SearchProblem) -> None:
        self._problem, self._generator = problem, np.random.default_rng(problem.seed)
        self._best, self._cost = problem.feasible[:1], np.inf

    def ask(self, count: int) -> Genotypes:
        space = self._problem.space
        genotypes = np.repeat(self._best, count, axis=0)
        is_any = self._generator.random(count) < 0.5
        genotypes[is_any] = space.sample(int(is_any.sum()), self._generator)
        columns = self._generator.integers(0, len(space.choices), size=count)
        genotypes[np.arange(count), columns] = self._generator.integers(0, space.cardinalities[columns])
        return np.unique(space.repair(genotypes), axis=0)

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        costs_n = np.where(outcomes.is_new_n, outcomes.costs_nk[:, 0], np.inf)
        if len(costs_n) and costs_n.min() < self._cost:
            self._best, self._cost = genotypes[costs_n.argmin()][None], costs_n.min()
