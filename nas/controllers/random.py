"""Random search: samples of the space within the bounds, the baseline that every controller must beat."""

from __future__ import annotations

import numpy as np

from nas.controllers.base import Outcomes
from nas.controllers.proposals import first_population, fresh_proposal, row_keys, within_bound
from nas.objectives.problem import SearchProblem
from search_spaces import Genotypes

INITIAL = 16
BATCH = 256


class RandomController:
    """Proposes the same first networks as the others, then samples within the bounds that it has not proposed yet."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._queue = first_population(problem, INITIAL, self._generator)
        self._seen: set[bytes] = set()

    def ask(self, count: int) -> Genotypes:
        """The next genotypes ``[n, c]``; none when samples bring nothing new within the bounds."""
        if not len(self._queue):
            drawn = self._problem.space.sample(max(BATCH, count), self._generator)
            self._queue = within_bound(self._problem, drawn)
        chosen, taken = self._take(count)
        self._queue = self._queue[taken:]
        if len(chosen):
            return chosen
        seen = np.array([np.frombuffer(key, dtype=np.int8) for key in sorted(self._seen)])
        proposal = fresh_proposal(self._problem, self._seen, seen, self._generator)
        if proposal is None:
            return self._problem.feasible[:0]
        self._seen.add(proposal.tobytes())
        return proposal[None]

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Outcomes change nothing."""

    def _take(self, count: int) -> tuple[Genotypes, int]:
        """Up to ``count`` new rows of the queue ``[n, c]``, and how many of the queue's rows that used up."""
        chosen: list[int] = []
        for position, key in enumerate(row_keys(self._queue)):
            if len(chosen) == count:
                return self._queue[chosen], position
            if key not in self._seen:
                self._seen.add(key)
                chosen.append(position)
        return self._queue[chosen], len(self._queue)
