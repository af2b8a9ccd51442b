"""Size as a score: parameters, MACs, and both at once. Every cleverer score has to beat these first.

The default, `capacity`, is the geometric mean of parameters and MACs. Parameters alone would always choose the smallest
image, since a network's parameters do not depend on it; MACs alone would spend everything on early, large maps. No
published training-free score that we know of ranks trained vision transformers better than their size does everywhere.
"""

from __future__ import annotations

import math

from search_spaces import Architecture, PopulationCost, SearchSpace, population_cost


def params(space: SearchSpace, architecture: Architecture, seed: int) -> float:
    """The number of parameters; ``seed`` changes nothing."""
    return float(_cost(space, architecture).params[0])


def macs(space: SearchSpace, architecture: Architecture, seed: int) -> float:
    """The number of multiply-accumulates; ``seed`` changes nothing."""
    return float(_cost(space, architecture).macs[0])


def capacity(space: SearchSpace, architecture: Architecture, seed: int) -> float:
    """The geometric mean of parameters and MACs, in millions; ``seed`` changes nothing."""
    cost = _cost(space, architecture)
    return math.sqrt(float(cost.params[0]) * float(cost.macs[0])) / 1e6


def _cost(space: SearchSpace, architecture: Architecture) -> PopulationCost:
    return population_cost(space, space.encode([architecture]))
