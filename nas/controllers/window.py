"""Networks just below a bound: the window that they lie in, and how ViT-ResNAS comes by them.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642.
Legend of array suffixes: n genotypes, c choices.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.controllers.proposals import distinct
from nas.objectives.problem import SearchProblem
from search_spaces import Choice, Genotypes

Mask = npt.NDArray[np.bool_]

PATIENCE = 100
"""So many choices lowered without meeting the bound, and widths, depths and switches are lowered as well."""
ROUNDS = 20


def lowered_population(
    problem: SearchProblem, count: int, lower_share: float | None, generator: np.random.Generator
) -> Genotypes:
    """Up to ``count`` distinct genotypes ``[n, c]`` just below the bound, as ViT-ResNAS makes its first population.

    Widths, depths, switches and labels are drawn at random and all other choices at their largest, until the window's
    lower end is reached; then one random choice after another is lowered to its next smaller value until the bound
    holds.
    """
    space, choices = problem.space, problem.space.choices
    is_coarse_c = np.array(
        [kind_of(choice) in ("width", "depth") or is_switch(choice) or not choice.is_ordered for choice in choices]
    )
    found = np.empty((0, len(choices)), dtype=np.int8)
    for _ in range(ROUNDS):
        sampled = space.sample(count, generator)
        rows = space.repair(np.where(is_coarse_c, sampled, space.cardinalities - 1).astype(np.int8))
        rows = rows[(problem.overshoot(rows) > 0) | is_within_window(problem, rows, lower_share)]
        over_n = np.flatnonzero(problem.overshoot(rows) > 0)
        for step in range(2 * PATIENCE):
            if not len(over_n):
                break
            lowered = space.repair(_lower_one(rows[over_n], is_coarse_c, step >= PATIENCE, generator))
            rows[over_n] = lowered
            over_n = over_n[(problem.overshoot(lowered) > 0) & (lowered > 0).any(axis=1)]
        found = distinct(np.concatenate([found, rows[is_within_window(problem, rows, lower_share)]]))
        if len(found) >= count:
            break
    return found[:count]


def is_within_window(problem: SearchProblem, genotypes: Genotypes, lower_share: float | None) -> Mask:
    """Which genotypes ``[n, c]`` all limits hold for and, where there is one, lie above ``lower_share``, ``[n]``.

    A network lies above where it uses at least that share of the limit that leaves it the least room.
    """
    excess_n = problem.excess(genotypes)
    is_within_n = np.asarray(excess_n <= 0, dtype=np.bool_)
    if lower_share is None or not np.isfinite(excess_n).all():
        return is_within_n
    return is_within_n & (excess_n >= lower_share - 1.0)


def kind_of(choice: Choice) -> str:
    """What a choice is about, whichever stage it belongs to: the last part of its name."""
    return choice.name.rpartition(".")[2]


def is_switch(choice: Choice) -> bool:
    """Whether a choice says that something is there or not."""
    return choice.is_ordered and choice.values == (0, 1)


def _lower_one(rows: Genotypes, is_coarse_c: Mask, lowers_coarse: bool, generator: np.random.Generator) -> Genotypes:
    """Each of ``rows`` ``[n, c]``, none of them all zero, with one random choice at its next smaller value.

    Coarse choices come last, unless ``lowers_coarse``.
    """
    can_lower = rows > 0
    priority = np.where(can_lower, generator.random(rows.shape), -1.0)
    if not lowers_coarse:
        priority += can_lower & ~is_coarse_c
    lowered: Genotypes = rows.copy()
    lowered[np.arange(len(rows)), priority.argmax(axis=1)] -= 1
    return lowered
