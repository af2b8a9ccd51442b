"""Genotypes within all bounds, without a sampler: first populations and ways out of dead ends.

Legend of array suffixes: n genotypes, c choices.
"""

from __future__ import annotations

import numpy as np

from nas.objectives.problem import SearchProblem
from search_spaces import Genotypes, population_cost

DRAWN = 4096
FRESH = 256
ROUNDS = 8
_TINY = 1e-12


def first_population(problem: SearchProblem, count: int, generator: np.random.Generator) -> Genotypes:
    """Up to ``count`` distinct genotypes ``[n, c]`` to start from, all within the bounds.

    First a network known to be, the space's smallest, middle, largest and published ones as far as they are too, then
    samples spread evenly over the room that the tightest limit leaves.
    """
    space = problem.space
    named = space.encode([space.smallest, space.middle, space.largest, *space.named.values()])
    known = np.concatenate([problem.feasible, named])
    chosen = distinct(within_bound(problem, known))[:count]
    sampled = _samples(problem, chosen, count, generator)
    return np.concatenate([chosen, _spread(problem, sampled, chosen, count - len(chosen), generator)])


def informed_population(problem: SearchProblem, large: int, spread: int, generator: np.random.Generator) -> Genotypes:
    """Up to ``large + spread`` distinct genotypes ``[n, c]`` to learn from, all within the bounds.

    First a network known to be there, then the largest of those about as dear, the logarithm of the known costs being
    cut into even ranges: size, the geometric mean of parameters and MACs, is the best guess at quality before anything
    has been evaluated. The largest network of all is among them where it is within the bounds; the sandwich rule trains
    it most. Then samples spread evenly as in `first_population`, which show what else there is.
    """
    largest = within_bound(problem, problem.space.encode([problem.space.largest]))
    sampled = np.concatenate([largest, _samples(problem, problem.feasible, large + spread, generator)])
    fresh = without(distinct(sampled), {row.tobytes() for row in problem.feasible})
    chosen = np.concatenate([problem.feasible, _largest(problem, fresh, large - 1)])
    return np.concatenate([chosen, _spread(problem, sampled, chosen, spread, generator)])


def covering(problem: SearchProblem, chosen: Genotypes, count: int, generator: np.random.Generator) -> Genotypes:
    """Up to ``count`` genotypes ``[n, c]`` within the bounds that show the most values that no other network has shown.

    Values that are rare within the bounds, an image's side for example, would else be met late. Once all are shown,
    networks are spread evenly as in `first_population`.

    Args:
        problem: What is searched.
        chosen: Genotypes that are tried anyway.
        count: Number of further ones.
        generator: Decides between those that show as much.
    """
    sampled = _samples(problem, problem.feasible, count, generator)
    fresh = generator.permutation(without(distinct(sampled), set(row_keys(chosen))))
    columns = np.arange(len(problem.space.cardinalities))
    is_shown = np.zeros((len(columns), problem.space.cardinalities.max()), dtype=bool)
    is_shown[columns[None], chosen] = True
    found = fresh[:0]
    while len(found) < min(count, len(fresh)):
        new_n = (~is_shown[columns[None], fresh]).sum(axis=1)
        best = int(np.argmax(new_n))
        if not new_n[best]:
            break
        found = np.concatenate([found, fresh[best : best + 1]])
        is_shown[columns, fresh[best]] = True
    taken = np.concatenate([chosen, found])
    return np.concatenate([found, _spread(problem, sampled, taken, count - len(found), generator)])


def fresh_proposal(
    problem: SearchProblem, seen: set[bytes], parents: Genotypes, generator: np.random.Generator
) -> Genotypes | None:
    """One genotype ``[c]`` of `fresh_proposals`, or None when none turns up."""
    found = fresh_proposals(problem, seen, parents, generator, 1)
    return found[0] if len(found) else None


def fresh_proposals(
    problem: SearchProblem, seen: set[bytes], parents: Genotypes, generator: np.random.Generator, count: int
) -> Genotypes:
    """Up to ``count`` distinct genotypes ``[n, c]`` within the bounds that are not in ``seen``, as far as they turn up.

    Neighbours of ``parents`` ``[n, c]`` are tried first, farther ones with every round, with samples of the space; at
    last many samples alone, so that of a space with few networks none is left out.
    """
    drawn = max(FRESH, count)
    for changes in range(1, ROUNDS + 2):
        is_last = changes > ROUNDS
        candidates = problem.space.sample(max(DRAWN, count) if is_last else drawn, generator)
        if len(parents) and not is_last:
            candidates = np.concatenate([mutate(problem, parents, drawn, changes, generator), candidates])
        fresh = distinct(without(within_bound(problem, candidates), seen))
        if len(fresh):
            return fresh[:count]
    return problem.feasible[:0]


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
    first: dict[bytes, int] = {}
    for position, key in enumerate(row_keys(genotypes)):
        first.setdefault(key, position)
    return genotypes[list(first.values())]


def without(genotypes: Genotypes, seen: set[bytes]) -> Genotypes:
    """The rows that are not in ``seen``."""
    return genotypes[[key not in seen for key in row_keys(genotypes)]]


def row_keys(genotypes: Genotypes) -> list[bytes]:
    """Each row ``[n, c]`` as bytes, the key that it is remembered by."""
    rows = np.ascontiguousarray(genotypes)
    keys: list[bytes] = rows.view(f"V{rows.shape[1]}").ravel().tolist()
    return keys


def _spread(
    problem: SearchProblem, sampled: Genotypes, chosen: Genotypes, count: int, generator: np.random.Generator
) -> Genotypes:
    """Up to ``count`` of ``sampled`` that are not ``chosen``, evenly over the room that the tightest limit leaves."""
    fresh = without(distinct(sampled), set(row_keys(chosen)))
    fresh = fresh[np.argsort(problem.excess(fresh), kind="stable")]
    count = max(0, min(count, len(fresh)))
    return generator.permutation(fresh[np.linspace(0, len(fresh) - 1, count).round().astype(np.int64)])


def _largest(problem: SearchProblem, genotypes: Genotypes, count: int) -> Genotypes:
    """The largest of ``genotypes`` ``[n, c]`` in each of ``count`` even ranges of what is known of their costs."""
    if not len(genotypes):
        return genotypes
    cost = population_cost(problem.space, genotypes)
    size_n = np.log(cost.params) + np.log(cost.macs)
    is_price_k = np.array([not objective.is_maximised for objective in problem.objectives])
    price_nk = problem.known_costs(genotypes)[:, is_price_k]
    dearness_n = np.log(np.maximum(price_nk, _TINY)).mean(axis=1) if is_price_k.any() else size_n
    edges = np.linspace(dearness_n.min(), dearness_n.max(), count + 1)[1:-1]
    range_n = np.searchsorted(edges, dearness_n)
    best = [int(np.argmax(np.where(range_n == number, size_n, -np.inf))) for number in np.unique(range_n)]
    return genotypes[best]


def _samples(problem: SearchProblem, anchors: Genotypes, count: int, generator: np.random.Generator) -> Genotypes:
    """Samples ``[n, c]`` within the bounds; where they are fewer than ``count`` also some like ``anchors``."""
    sampled = within_bound(problem, problem.space.sample(DRAWN, generator))
    if len(sampled) >= count:
        return sampled
    return np.concatenate([sampled, _towards(problem, anchors, generator)])


def _towards(problem: SearchProblem, anchors: Genotypes, generator: np.random.Generator) -> Genotypes:
    """Under a tight bound: samples that take most of their choices from a network known to satisfy it."""
    if not len(anchors):
        return anchors
    sampled = problem.space.sample(DRAWN, generator)
    kept_n = generator.random(DRAWN)[:, None]
    takes_anchor = generator.random(sampled.shape) < kept_n
    mixed = np.where(takes_anchor, anchors[generator.integers(len(anchors), size=DRAWN)], sampled)
    return within_bound(problem, problem.space.repair(mixed))
