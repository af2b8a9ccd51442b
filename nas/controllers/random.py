"""Random search: samples of the space that satisfy the bound, the baseline that every controller must beat."""

from __future__ import annotations

import numpy as np

from nas.controllers.base import Outcome, SearchProblem
from nas.controllers.proposals import first_population, fresh_proposal
from search_spaces import Genotypes

INITIAL = 16
BATCH = 256


class RandomController:
    """Proposes the same first networks as the others, then samples within the bound that it has not proposed yet."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._queue: list[Genotypes] = list(first_population(problem, INITIAL, self._generator))
        self._seen: set[bytes] = set()

    def ask(self) -> Genotypes | None:
        """The next genotype ``[c]``; None when samples bring nothing new within the bound."""
        if not self._queue:
            drawn = self._problem.space.sample(BATCH, self._generator)
            self._queue = list(drawn[self._problem.excess_ms(drawn) <= 0])
        while self._queue:
            genotype = self._queue.pop(0)
            if genotype.tobytes() not in self._seen:
                return genotype
        seen = np.array([np.frombuffer(key, dtype=np.int8) for key in sorted(self._seen)])
        return fresh_proposal(self._problem, self._seen, seen, self._generator)

    def tell(self, genotype: Genotypes, outcome: Outcome) -> None:
        """Remember that the genotype was tried."""
        self._seen.add(genotype.tobytes())
