"""The energy of one image, in millijoules: three picojoules for every MAC, and as much again for every parameter."""

from __future__ import annotations

from nas.objectives.quantities import Column, Quantity
from search_spaces import Genotypes, OpGraph, SearchSpace, population_cost

MILLIJOULES = 3e-6


def of_population(space: SearchSpace, genotypes: Genotypes) -> Column:
    cost = population_cost(space, genotypes)
    energies: Column = MILLIJOULES * (cost.macs + cost.params)
    return energies


def of_graph(graph: OpGraph) -> float:
    return MILLIJOULES * (graph.macs + graph.params)


ENERGY = Quantity("energy", "mJ", "energy of one image", of_population, of_graph)
