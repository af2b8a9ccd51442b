"""Pareto local search: one choice at a time away from the networks on the front.

Source: Paquete, Chiarandini and Stuetzle, "Pareto local optimum sets in the biobjective traveling salesman problem: an
experimental study", in Metaheuristics for Multiobjective Optimisation, 2004. The archive is the front so far; a member
is explored when all its neighbours have been proposed, and the search is done when every member is.

Deviations: neighbours are not proposed member by member but in turns, from whichever member has had the fewest, since
evaluations are dear and most members leave the front before all their neighbours are known; when every member is
explored the search goes on farther away from the front, and from new samples, in place of ending.

Legend of array suffixes: n genotypes, c choices, f members of the front, k objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapify, heappop, heapreplace

import numpy as np

from nas.controllers.base import Outcomes
from nas.controllers.neighbours import Neighbourhoods
from nas.controllers.proposals import first_population, fresh_proposals, row_keys, without
from nas.objectives.pareto import pareto_mask
from nas.objectives.problem import Floats, SearchProblem
from search_spaces import Genotypes

INITIAL = 20


@dataclass
class _Member:
    """A network on the front, its neighbours, those that are left to propose, and how many have been."""

    genotype: Genotypes
    neighbours: Genotypes | None = None
    left: Genotypes | None = None
    proposed: int = 0


class LocalSearchController:
    """Proposes neighbours of the front, members with the fewest proposed neighbours first; never one out of bounds."""

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._queue = first_population(problem, INITIAL, self._generator)
        self._seen: set[bytes] = set(row_keys(self._queue))
        self._front: list[_Member] = []
        self._neighbourhoods = Neighbourhoods(problem)
        self._costs_fk: Floats = np.empty((0, len(problem.objectives)))

    def ask(self, count: int) -> Genotypes:
        """The next genotypes ``[n, c]``; none when nothing new within the bounds turns up."""
        if len(self._queue):
            asked, self._queue = self._queue[:count], self._queue[count:]
            return asked
        rows: list[Genotypes] = []
        turns = [(member.proposed, position) for position, member in enumerate(self._front)]
        heapify(turns)
        while turns and len(rows) < count:
            position = turns[0][1]
            neighbour = self._neighbour(self._front[position])
            if neighbour is None:
                heappop(turns)
            else:
                rows.append(neighbour)
                heapreplace(turns, (self._front[position].proposed, position))
        if rows:
            return self._stacked(rows)
        members = self._stacked([member.genotype for member in self._front])
        fresh = fresh_proposals(self._problem, self._seen, members, self._generator, count)
        self._seen.update(row_keys(fresh))
        return fresh

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Let what was evaluated join the front, and push others off it."""
        is_new_n = outcomes.is_new_n
        members = [*self._front, *(_Member(genotype) for genotype in genotypes[is_new_n])]
        costs_nk = np.concatenate([self._costs_fk, outcomes.costs_nk[is_new_n]])
        is_on_front_n = pareto_mask(costs_nk)
        self._front = [member for member, is_on_front in zip(members, is_on_front_n, strict=True) if is_on_front]
        self._costs_fk = costs_nk[is_on_front_n]

    def _neighbour(self, member: _Member) -> Genotypes | None:
        """A new neighbour ``[c]`` within the bounds; None where the member is explored."""
        if member.left is None:
            if member.neighbours is None:
                self._look_around()
            assert member.neighbours is not None, "every member on the front has looked around"
            member.left = self._generator.permutation(without(member.neighbours, self._seen))
        while len(member.left):
            neighbour: Genotypes = member.left[0]
            member.left = member.left[1:]
            member.proposed += 1
            if neighbour.tobytes() not in self._seen:
                self._seen.add(neighbour.tobytes())
                return neighbour
        return None

    def _look_around(self) -> None:
        members = self._stacked([member.genotype for member in self._front])
        for member, neighbours in zip(self._front, self._neighbourhoods.of(members), strict=True):
            member.neighbours = neighbours

    def _stacked(self, rows: list[Genotypes]) -> Genotypes:
        return np.array(rows, dtype=np.int8).reshape(-1, len(self._problem.space.choices))
