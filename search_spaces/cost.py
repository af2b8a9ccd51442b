"""Costs of whole populations: per-block tables, computed once, gathered for any number of genotypes.

A network's parameters, MACs and predicted latency are the sum over its blocks; its peak memory is the largest of its
blocks' peaks. Each slot's blocks depend on a handful of choices, so all distinct blocks of a space (a few thousand) are
lowered once and a population costs one gather per slot. Legend of array suffixes: n genotypes, k costs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from search_spaces.graph import Op, peak_elements
from search_spaces.space import BlockSpec, Genotypes, SearchSpace, Slot

BlockCost = Callable[[tuple[Op, ...]], Sequence[float]]
"""Maps a block's operators to its k costs."""


@dataclass(frozen=True)
class _SlotTable:
    columns: tuple[int, ...]
    strides: tuple[int, ...]
    costs_k: tuple[npt.NDArray[Any], ...]
    repeats_column: int | None
    repeats: npt.NDArray[np.int64]


class CostTables:
    """The costs of every block a space can build, for populations.

    Args:
        space: The search space.
        cost: Maps a block's operators to its costs; called once per distinct block.
        width: Number k of costs that it returns.
        dtype: Number type of the results; ``int64`` keeps counts exact.
        combine: How a network's cost is made from those of its blocks: ``np.add`` or ``np.maximum``.
    """

    def __init__(
        self, space: SearchSpace, cost: BlockCost, width: int, dtype: npt.DTypeLike, combine: np.ufunc = np.add
    ) -> None:
        self.space = space
        self.width = width
        self.dtype = np.dtype(dtype)
        self._combine = combine
        known: dict[BlockSpec, Sequence[float]] = {}  # many rows of many slots have the same block
        self._tables = [self._tabulate(slot, cost, known) for slot in space.slots]

    def __call__(self, genotypes: Genotypes) -> npt.NDArray[Any]:
        """The costs of valid ``genotypes`` ``[n, c]`` as one array ``[k, n]``."""
        totals_kn = np.zeros((self.width, len(genotypes)), dtype=self.dtype)
        chunk = 1 << 15  # small enough for the gathers to stay in the cache
        for start in range(0, len(genotypes), chunk):
            part = np.ascontiguousarray(genotypes[start : start + chunk].T)
            for table in self._tables:
                self._accumulate(table, part, totals_kn[:, start : start + chunk])
        return totals_kn

    def _accumulate(self, table: _SlotTable, genotypes_cn: Genotypes, totals_kn: npt.NDArray[Any]) -> None:
        index_n = np.zeros(genotypes_cn.shape[1], dtype=np.int32)
        for column, stride in zip(table.columns, table.strides, strict=True):
            index_n += np.multiply(genotypes_cn[column], stride, dtype=np.int32)
        repeats_n = None if table.repeats_column is None else table.repeats[genotypes_cn[table.repeats_column]]
        for total_n, cost in zip(totals_kn, table.costs_k, strict=True):
            gathered_n = cost[index_n]
            self._combine(total_n, gathered_n if repeats_n is None else gathered_n * repeats_n, out=total_n)

    def _tabulate(self, slot: Slot, cost: BlockCost, known: dict[BlockSpec, Sequence[float]]) -> _SlotTable:
        space = self.space
        columns = tuple(space.columns[name] for name in slot.choices)
        value_lists = [space.choices[column].values for column in columns]
        sizes = [len(values) for values in value_lists]
        rows = np.zeros((prod(sizes), self.width), dtype=self.dtype)
        for row, values in enumerate(itertools.product(*value_lists)):
            block = space.block(slot.name, dict(zip(slot.choices, values, strict=True)))
            if block is not None:
                if block not in known:
                    known[block] = cost(block.ops())
                rows[row] = known[block]
        strides = tuple(prod(sizes[position + 1 :]) for position in range(len(sizes)))
        if slot.repeats is None:
            return _SlotTable(columns, strides, tuple(rows.T.copy()), None, np.empty(0, dtype=np.int64))
        depths = np.array(space.choices[space.columns[slot.repeats]].values, dtype=np.int64)
        repeats = np.clip(depths, slot.start, slot.stop) - slot.start
        if self._combine is np.maximum:
            repeats = np.minimum(repeats, 1)  # many equal blocks need no more than one of them
        return _SlotTable(columns, strides, tuple(rows.T.copy()), space.columns[slot.repeats], repeats)


@dataclass(frozen=True)
class PopulationCost:
    """Parameters and MACs of a population, ``[n]`` each."""

    params: npt.NDArray[np.int64]
    macs: npt.NDArray[np.int64]


FLOAT_BYTES = 4
_cost_tables: WeakKeyDictionary[SearchSpace, CostTables] = WeakKeyDictionary()


def population_cost(space: SearchSpace, genotypes: Genotypes) -> PopulationCost:
    """Parameters and multiply-accumulates of every genotype ``[n, c]``, exact and vectorised."""
    tables = _cost_tables.get(space)
    if tables is None:
        tables = _cost_tables[space] = CostTables(space, _params_and_macs, width=2, dtype=np.int64)
    params_n, macs_n = tables(genotypes)
    return PopulationCost(params_n, macs_n)


_peak_tables: WeakKeyDictionary[SearchSpace, CostTables] = WeakKeyDictionary()


def population_peak_memory(space: SearchSpace, genotypes: Genotypes) -> npt.NDArray[np.int64]:
    """Peak memory of the activations of every genotype ``[n, c]``, in bytes ``[n]``: one image in fp32, no weights.

    It is the peak of the op graph, exactly, see `search_spaces.graph.peak_elements`.
    """
    tables = _peak_tables.get(space)
    if tables is None:
        tables = CostTables(space, lambda ops: (peak_elements(ops),), width=1, dtype=np.int64, combine=np.maximum)
        _peak_tables[space] = tables
    return np.asarray(FLOAT_BYTES * tables(genotypes)[0], dtype=np.int64)


def _params_and_macs(ops: tuple[Op, ...]) -> tuple[int, int]:
    return sum(op.params for op in ops), sum(op.macs for op in ops)
