"""A part of a search space: the networks of a list and no others.

Legend of array suffixes: n genotypes, m networks of the list, c choices, f features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nas.controllers.proposals import distinct, row_keys
from search_spaces import Architecture, Genotypes
from search_spaces.graph import Shape
from search_spaces.space import BlockSpec, Choice, SearchSpace, Slot


class ListedSpace(SearchSpace):
    """Networks of ``base`` under the same names, as far as they stand in a list; others become the nearest that does.

    Whatever proposes networks by drawing, mixing and repairing them therefore proposes those of the list alone.

    Args:
        base: The whole space.
        genotypes: The list ``[m, c]``, valid in ``base``.
    """

    def __init__(self, base: SearchSpace, genotypes: Genotypes) -> None:
        self._base = base
        self.name, self.version, self.classes = base.name, base.version, base.classes
        self.image_side = base.image_side
        self.listed = distinct(genotypes)
        self.description = f"{len(self.listed)} networks of {base.name}"
        self._keys = set(row_keys(self.listed))

    @property
    def base(self) -> SearchSpace:
        """The whole space."""
        return self._base

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The choices of the whole space."""
        return self._base.choices

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of the whole space."""
        return self._base.slots

    @property
    def encodings(self) -> int:
        """The number of networks of the list."""
        return len(self.listed)

    @property
    def named(self) -> Mapping[str, Architecture]:
        """Published networks that stand in the list."""
        known = self._base.named
        rows = row_keys(self._base.encode(list(known.values()))) if known else []
        return {name: known[name] for name, key in zip(known, rows, strict=True) if key in self._keys}

    def block(self, slot: str, values: Mapping[str, int]) -> BlockSpec | None:
        """The block in ``slot``."""
        return self._base.block(slot, values)

    def coarse_blocks(self, architecture: Architecture, patch_stride: int) -> Iterator[tuple[str, BlockSpec]]:
        """The blocks with the same weights on patches that are ``patch_stride`` times as far apart."""
        return self._base.coarse_blocks(architecture, patch_stride)

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(channels, side, side)`` of the image that the network computes on."""
        return self._base.input_shape(values)

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """The networks of the list that are nearest to ``[n, c]``; those that stand in it are kept."""
        repaired = self._base.repair(genotypes)
        is_odd_n = np.array([key not in self._keys for key in row_keys(repaired)], dtype=np.bool_)
        if is_odd_n.any():
            nearest_n = self._tree.query(self._features(repaired[is_odd_n]), p=1)[1]
            repaired = repaired.copy()
            repaired[is_odd_n] = self.listed[nearest_n]
        return repaired

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Draw ``count`` networks of the list ``[n, c]``, none again before all have been drawn."""
        size = len(self.listed)
        drawn_n = np.concatenate([generator.permutation(size) for _ in range(-(-count // size))])[:count]
        drawn: Genotypes = self.listed[drawn_n]
        return drawn

    @cached_property
    def _tree(self) -> Any:
        from scipy.spatial import KDTree

        return KDTree(self._features(self.listed))

    def _features(self, genotypes: Genotypes) -> npt.NDArray[np.float64]:
        """Numbers ``[n, f]`` whose distances say how much networks differ, each choice by at most 1."""
        columns: list[npt.NDArray[Any]] = []
        for column_n, choice in zip(genotypes.T, self.choices, strict=True):
            last = len(choice.values) - 1
            if choice.is_ordered:
                columns.append(column_n[:, None] / max(last, 1))
            else:
                columns.append((column_n[:, None] == np.arange(last + 1)) / 2)
        return np.concatenate(columns, axis=1)
