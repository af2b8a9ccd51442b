"""What can be built, and what it costs in operations. Importing it brings in no torch."""

from search_spaces.architecture import Architecture
from search_spaces.cost import CostTables, PopulationCost, population_cost, population_peak_memory
from search_spaces.errors import ArchitectureError, NasError, SearchSpaceError, UnknownNameError
from search_spaces.graph import SOURCE, Op, OpGraph, OpList
from search_spaces.registry import find_architecture, get_space, register, space_kinds, space_names
from search_spaces.single import SingleSpace
from search_spaces.space import BlockSpec, Choice, Genotypes, SearchSpace, Slot

__all__ = [
    "SOURCE",
    "Architecture",
    "ArchitectureError",
    "BlockSpec",
    "Choice",
    "CostTables",
    "Genotypes",
    "NasError",
    "Op",
    "OpGraph",
    "OpList",
    "PopulationCost",
    "SearchSpace",
    "SearchSpaceError",
    "SingleSpace",
    "Slot",
    "UnknownNameError",
    "find_architecture",
    "get_space",
    "population_cost",
    "population_peak_memory",
    "register",
    "space_kinds",
    "space_names",
]
