"""Evolution towards the best first objective within bounds, by the rules of two papers.

Every generation is made of the best networks so far, some of them mutated and some crossed with each other.

- `ELASTICVIT`: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on
  Diverse Mobile Devices", ICCV 2023, arXiv 2303.09730; sizes and probabilities as in its reference implementation.
- `RESNAS`: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642.

Deviations from both: the bound is on latency, where theirs is on multiply-accumulates; a network is never evaluated
twice (ViT-ResNAS allows that after 100 duplicates); a child that breaks a rule of the space, such as widths that never
decrease, is repaired, not drawn again; the search goes on until its budget is spent; where not one child can be made,
a neighbour of the best networks, or else a sample of the space, keeps within the bound but not within the window.

Deviations from ElasticViT: sizes grow, since most budgets are far below its 10,752 evaluations; ``grows=False`` gives
the published ones. The first population is that of the other controllers, in place of the memory bank of its training.
The input side mutates like other choices (the reference draws a new one and drops it). Any network within the bound
competes; the paper's window begins at a number of multiply-accumulates and its space at a network of that size, and it
rules out 160 pixels for large ones.

Deviations from ViT-ResNAS: what its rules do to heads and hidden widths is done to every choice that is neither a
width, a depth nor a switch, so that they apply to other spaces; the choice to lower is drawn from all that can be
lowered, not from one block; a mutation is given up after 100 attempts; a first population for which the window holds
too few networks is filled up from within the bound.

Legend of array suffixes: n genotypes, c choices, g groups of choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nas.controllers.base import Outcomes
from nas.controllers.proposals import distinct, first_population, fresh_proposal, without
from nas.controllers.window import is_switch, is_within_window, kind_of, lowered_population
from nas.objectives.problem import SearchProblem
from search_spaces import Choice, Genotypes

FIRST_OF_GROWING = 20
"""First population of a search whose sizes grow."""
LEAST = 8
"""Fewest survivors, mutants and crossovers of one whose sizes grow."""

BATCH = 512
"""Children that are judged at once."""


@dataclass(frozen=True)
class EvolutionOptions:
    """The rules of one search.

    Attributes:
        population: Networks evaluated before the first generation.
        generations: How many follow in the published search.
        survivors: The best of all networks so far, from which parents are drawn.
        mutants: Mutants per generation.
        crossovers: Crossovers per generation.
        gene_probability: Probability of a choice to be redrawn in a mutation. A switch, which is 0 or 1, is flipped.
        depth_probability: Probability of all depths to be redrawn together; None treats them as other choices.
        uniform_share: Probability that a redraw is uniform over the choice's values; it takes the smallest otherwise.
        inherits_kinds: In a crossover, choices of one kind (all widths, all depths, all kernels) come from the same
            parent; otherwise each comes from either.
        keeps_parent: A mutation that fails is tried again on the same parent; otherwise on another.
        attempts: To make one child that is new and within the window.
        lower_share: Lower end of the window, as a share of the bound; None for no lower end.
        lowers: The first population is lowered from networks over the bound, see `lowered_population`.
        grows: Population and generations start small and grow with the results up to the given sizes, see `grown`.
    """

    population: int
    generations: int
    survivors: int
    mutants: int
    crossovers: int
    gene_probability: float
    depth_probability: float | None
    uniform_share: float
    inherits_kinds: bool
    keeps_parent: bool
    attempts: int
    lower_share: float | None
    lowers: bool
    grows: bool

    @property
    def evaluations(self) -> int:
        """The number of networks that the published search evaluates."""
        return self.population + self.generations * (self.mutants + self.crossovers)

    def grown(self, results: int) -> EvolutionOptions:
        """The options for the generation that follows so many results.

        Sizes stand to the results so far as the published ones to all of the published evaluations. They do not depend
        on the budget, which may be one of time, and may be raised when a run is resumed.
        """
        if not self.grows:
            return self
        share = min(1.0, results / self.evaluations)
        survivors, mutants, crossovers = (
            max(LEAST, round(share * size)) for size in (self.survivors, self.mutants, self.crossovers)
        )
        return replace(self, survivors=survivors, mutants=mutants, crossovers=crossovers)


ELASTICVIT = EvolutionOptions(
    population=512,
    generations=40,
    survivors=256,
    mutants=128,
    crossovers=128,
    gene_probability=0.2,
    depth_probability=0.4,
    uniform_share=0.45,
    inherits_kinds=True,
    keeps_parent=False,
    attempts=10,
    lower_share=None,
    lowers=False,
    grows=True,
)
RESNAS = EvolutionOptions(
    population=500,
    generations=19,
    survivors=75,
    mutants=75,
    crossovers=75,
    gene_probability=0.3,
    depth_probability=None,
    uniform_share=1.0,
    inherits_kinds=False,
    keeps_parent=True,
    attempts=100,
    lower_share=0.975,
    lowers=True,
    grows=False,
)


class EvolutionController:
    """Proposes children of the networks with the best first objective so far, and never one out of bounds."""

    def __init__(self, problem: SearchProblem, options: EvolutionOptions = ELASTICVIT) -> None:
        self._problem = problem
        self._options = options
        self._generator = np.random.default_rng(problem.seed)
        self._variation = Variation(problem.space.choices, options, self._generator)
        self._seen: set[bytes] = set()
        self._done: list[Genotypes] = []
        self._costs: list[float] = []
        self._queue: list[Genotypes] = self._new(self._first_population())

    def ask(self, count: int) -> Genotypes:
        """The next genotypes ``[n, c]``, of one generation; none when nothing new within the bounds turns up."""
        if not self._queue:
            self._queue = self._generation()
        if not self._queue:
            best = self._best(self._options.survivors)
            proposal = fresh_proposal(self._problem, self._seen, best, self._generator)
            self._queue = [] if proposal is None else self._new(proposal[None])
        asked, self._queue = self._queue[:count], self._queue[count:]
        return np.array(asked, dtype=np.int8).reshape(-1, len(self._problem.space.choices))

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Let genotypes be parents if they were evaluated."""
        is_new_n = outcomes.is_new_n
        self._done += list(genotypes[is_new_n])
        self._costs += outcomes.costs_nk[is_new_n, 0].tolist()

    def _first_population(self) -> Genotypes:
        """Distinct genotypes ``[n, c]`` within the bound."""
        problem, options, generator = self._problem, self._options, self._generator
        count = FIRST_OF_GROWING if options.grows else options.population
        if not options.lowers or not np.isfinite(problem.excess(problem.feasible)).all():
            return first_population(problem, count, generator)
        lowered = lowered_population(problem, count, options.lower_share, generator)
        if len(lowered) == count:
            return lowered
        return distinct(np.concatenate([lowered, first_population(problem, count, generator)]))[:count]

    def _generation(self) -> list[Genotypes]:
        """The next mutants and crossovers; none where the attempts bring nothing new."""
        options = self._options.grown(len(self._done))
        parents = self._best(options.survivors)
        children: list[Genotypes] = []
        if len(parents):
            children += self._children(parents, options.mutants, self._variation.mutate, options.keeps_parent)
        if len(parents) > 1:
            children += self._children(parents, options.crossovers, self._variation.cross, keeps_parents=False)
        return children

    def _children(
        self,
        parents: Genotypes,
        count: int,
        vary: Callable[[Genotypes, Genotypes], Genotypes],
        keeps_parents: bool,
    ) -> list[Genotypes]:
        """Up to ``count`` new genotypes within the window; each is tried for until the attempts are spent."""
        children: list[Genotypes] = []
        pairs, attempts = self._pairs(len(parents), count), self._options.attempts
        while pairs.size and attempts:
            missing = pairs.shape[1]
            tries = min(attempts, max(1, BATCH // missing))
            attempts -= tries
            tried = np.tile(pairs, tries) if keeps_parents else self._pairs(len(parents), tries * missing)
            drawn = self._problem.space.repair(vary(*parents[tried]))
            is_missing = np.ones(missing, dtype=np.bool_)
            for row in np.flatnonzero(is_within_window(self._problem, drawn, self._options.lower_share)):
                if is_missing[row % missing]:
                    new = self._new(drawn[[row]])
                    is_missing[row % missing] = not new
                    children += new
            pairs = pairs[:, is_missing]
        return children

    def _pairs(self, parents: int, count: int) -> npt.NDArray[np.int64]:
        """Numbers of two different parents for each child, ``[2, count]``; the same twice where there is but one."""
        first = self._generator.integers(parents, size=count)
        other = self._generator.integers(1, parents, size=count) if parents > 1 else 0
        return np.stack([first, (first + other) % parents])

    def _best(self, count: int) -> Genotypes:
        """The ``count`` genotypes ``[n, c]`` with the best first objective so far, best first."""
        order = np.argsort(np.array(self._costs), kind="stable")[:count]
        done = np.array(self._done, dtype=np.int8).reshape(-1, len(self._problem.space.choices))
        return done[order]

    def _new(self, genotypes: Genotypes) -> list[Genotypes]:
        """Those of distinct rows ``[n, c]`` that were never proposed; from now on they count as proposed."""
        rows = list(without(genotypes, self._seen))
        self._seen.update(row.tobytes() for row in rows)
        return rows


def resnas_evolution(problem: SearchProblem) -> EvolutionController:
    """Evolution by the rules of ViT-ResNAS."""
    return EvolutionController(problem, RESNAS)


class Variation:
    """Mutation and crossover of genotypes, before the space's rules are applied.

    Args:
        choices: Choices of the space.
        options: Probabilities.
        generator: Drawn from at each call.
    """

    def __init__(self, choices: Sequence[Choice], options: EvolutionOptions, generator: np.random.Generator) -> None:
        self._options = options
        self._generator = generator
        self._sizes = np.array([len(choice.values) for choice in choices], dtype=np.int64)
        self._is_ordered_c = np.array([choice.is_ordered for choice in choices])
        self._is_switch_c = np.array([is_switch(choice) for choice in choices])
        kinds = [kind_of(choice) for choice in choices]
        self._is_depth_c = np.array([kind == "depth" for kind in kinds])
        groups = kinds if options.inherits_kinds else [choice.name for choice in choices]
        self._group_c = np.unique(groups, return_inverse=True)[1]

    def mutate(self, parents: Genotypes, _: Genotypes) -> Genotypes:
        """A mutant of each of ``parents`` ``[n, c]``."""
        options, generator = self._options, self._generator
        is_redrawn = generator.random(parents.shape) < options.gene_probability
        if options.depth_probability is not None:
            redraws_depths_n = generator.random(len(parents)) < options.depth_probability
            is_redrawn = np.where(self._is_depth_c, redraws_depths_n[:, None], is_redrawn)
        uniform = generator.integers(0, self._sizes, size=parents.shape)
        draws_any = (generator.random(parents.shape) < options.uniform_share) | ~self._is_ordered_c
        drawn = np.where(draws_any, uniform, 0)
        drawn = np.where(self._is_switch_c, 1 - parents, drawn)
        mutants: Genotypes = np.where(is_redrawn, drawn, parents).astype(np.int8)
        return mutants

    def cross(self, first: Genotypes, second: Genotypes) -> Genotypes:
        """A child of each pair of parents ``[n, c]``, which takes each group of choices from either."""
        takes_second_ng = self._generator.random((len(first), self._group_c.max() + 1)) < 0.5
        children: Genotypes = np.where(takes_second_ng[:, self._group_c], second, first)
        return children
