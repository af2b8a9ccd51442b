"""Genotypes within all bounds, without a sampler: first populations and ways out of dead ends.

Legend of array suffixes: n genotypes, c choices.
"""

from __future__ import annotations

import numpy as np

from nas.controllers.base import SearchProblem
from search_spaces import Genotypes

DRAWN = 4096
ROUNDS = 8


def first_population(problem: SearchProblem, count: int, generator: np.random.Generator) -> Genotypes:
    """Up to ``count`` distinct genotypes ``[n, c]`` to start from, all within the bounds.

    First a network known to be, the space's smallest, middle, largest and published ones as far as they are too, then
    samples spread evenly over the room that the tightest limit leaves.
    """
    space = problem.space
    named = space.encode([space.smallest, space.middle, space.largest, *space.named.values()])
    known = np.concatenate([problem.feasible, named])
    chosen = distinct(within_bound(problem, known))[:count]
    sampled = within_bound(problem, space.sample(DRAWN, generator))
    if len(sampled) < count:
        sampled = np.concatenate([sampled, _towards(problem, chosen, generator)])
    fresh = without(distinct(sampled), {row.tobytes() for row in chosen})
    fresh = fresh[np.argsort(problem.excess(fresh), kind="stable")]
    missing = min(count - len(chosen), len(fresh))
    spread = np.linspace(0, len(fresh) - 1, missing).round().astype(np.int64)
    return np.concatenate([chosen, generator.permutation(fresh[spread])])


def fresh_proposal(
    problem: SearchProblem, seen: set[bytes], parents: Genotypes, generator: np.random.Generator
) -> Genotypes | None:
    """A genotype ``[c]`` within the bounds that is not in ``seen``, or None when none turns up.

    Neighbours of ``parents`` ``[n, c]`` are tried first, farther ones with every round, then samples of the space.
    """
    for changes in range(1, ROUNDS + 1):
        candidates = problem.space.sample(256, generator)
        if len(parents):
            candidates = np.concatenate([mutate(problem, parents, 256, changes, generator), candidates])
        fresh = without(within_bound(problem, candidates), seen)
        if len(fresh):
            proposal: Genotypes = fresh[0]
            return proposal
    return None


def mutate(
    problem: SearchProblem, parents: Genotypes, count: int, changes: int, generator: np.random.Generator
) -> Genotypes:
    """``count`` genotypes that differ from one of ``parents`` ``[n, c]`` in about ``changes`` choices."""
    sizes = problem.space.cardinalities
    children = parents[generator.integers(len(parents), size=count)]
    drawn = generator.integers(0, sizes, size=children.shape).astype(np.int8)
    is_changed = generator.random(children.shape) < changes / len(sizes)
    return problem.space.repair(np.where(is_changed, drawn, children))


def within_bound(problem: SearchProblem, genotypes: Genotypes) -> Genotypes:
    """The rows that all limits hold for."""
    return genotypes[problem.excess(genotypes) <= 0]


def distinct(genotypes: Genotypes) -> Genotypes:
    """The rows without repetitions, in order of first appearance."""
    _, first = np.unique(genotypes, axis=0, return_index=True)
    return genotypes[np.sort(first)]


def without(genotypes: Genotypes, seen: set[bytes]) -> Genotypes:
    """The rows that are not in ``seen``."""
    return genotypes[[key not in seen for key in row_keys(genotypes)]]


def row_keys(genotypes: Genotypes) -> list[bytes]:
    """Each row ``[n, c]`` as bytes, the key that it is remembered by."""
    rows = np.ascontiguousarray(genotypes)
    keys: list[bytes] = rows.view(f"V{rows.shape[1]}").ravel().tolist()
    return keys


def _towards(problem: SearchProblem, anchors: Genotypes, generator: np.random.Generator) -> Genotypes:
    """Under a tight bound: samples that take most of their choices from a network known to satisfy it."""
    if not len(anchors):
        return anchors
    sampled = problem.space.sample(DRAWN, generator)
    kept_n = generator.random(DRAWN)[:, None]
    takes_anchor = generator.random(sampled.shape) < kept_n
    mixed = np.where(takes_anchor, anchors[generator.integers(len(anchors), size=DRAWN)], sampled)
    return within_bound(problem, problem.space.repair(mixed))
