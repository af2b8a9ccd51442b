"""Drawing networks of a space that are at least as large as one of them.

Legend of array suffixes: n genotypes, c choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from search_spaces import Architecture, Genotypes, SearchSpace
from search_spaces.elastic import ElasticSpace

_PUBLISHED_BOUNDS = ("side", "width", "depth", "v_scale")
"""Choices of the ElasticViT family that a smallest network bounds; kernels and ratios are free, as published."""


class Floor:
    """The networks of a space whose bounded choices have no smaller value than in ``smallest``; labels are free.

    In the ElasticViT family the input side, widths, depths and widths of values are bounded, as published; kernels and
    the ratios of expansions and feed-forward layers are free, and widths are drawn as the space draws them. Elsewhere
    every choice is bounded, drawn uniformly, and put right by the rules of the space.

    Args:
        space: The search space.
        smallest: The network; None bounds nothing.
    """

    def __init__(self, space: SearchSpace, smallest: Architecture | None) -> None:
        self.space = space
        self.lowest_c = np.zeros(len(space.choices), dtype=np.int8)
        if smallest is None:
            return
        lowest_c = space.encode([smallest])[0]
        for name, column in space.columns.items():
            if not space.choices[column].is_ordered:
                continue
            if not isinstance(space, ElasticSpace) or name.rpartition(".")[2] in _PUBLISHED_BOUNDS:
                self.lowest_c[column] = lowest_c[column]

    @property
    def encodings(self) -> int:
        """The number of encodings, whether rules between choices allow them or not."""
        return prod((self.space.cardinalities - self.lowest_c).tolist())

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Genotypes ``[n, c]``: ``count``, less those that rules between choices make too small, and one at least."""
        if isinstance(self.space, ElasticSpace):
            return self._sample_elastic(self.space, count, generator)
        if not self.lowest_c.any():
            return self.space.sample(count, generator)
        while True:
            drawn = generator.integers(self.lowest_c, self.space.cardinalities, size=(count, len(self.lowest_c)))
            genotypes = self.space.repair(drawn.astype(np.int8))
            genotypes = genotypes[(genotypes >= self.lowest_c).all(axis=1)]
            if len(genotypes):
                return np.asarray(genotypes, dtype=np.int8)

    def enumerate(self, chunk: int = 1 << 16) -> Iterator[Genotypes]:
        """All valid genotypes, some ``[n, c]`` at a time."""
        sizes = tuple((self.space.cardinalities - self.lowest_c).tolist())
        for start in range(0, self.encodings, chunk):
            numbers = np.arange(start, min(start + chunk, self.encodings))
            genotypes = np.stack(np.unravel_index(numbers, sizes), axis=1).astype(np.int8) + self.lowest_c
            yield np.asarray(genotypes[self.space.is_valid(genotypes)], dtype=np.int8)

    def _sample_elastic(self, space: ElasticSpace, count: int, generator: np.random.Generator) -> Genotypes:
        """As `ElasticSpace.sample`, from floats, three times as fast; numpy lets other threads run meanwhile."""
        shares_cn = generator.random((len(self.lowest_c), count), dtype=np.float32)
        # A share below 1 times a number of values never rounds up to that number, but may once the lowest is added.
        sizes_c = (space.cardinalities - self.lowest_c).astype(np.float32)
        genotypes_cn = (shares_cn * sizes_c[:, None]).astype(np.int8) + self.lowest_c[:, None]
        previous, index_n = "stem", genotypes_cn[space.columns["stem.width"]]
        for stage in space.definition.stages:
            column = space.columns[f"{stage.name}.width"]
            widths = space.choices[column].values
            before = space.choices[space.columns[f"{previous}.width"]].values
            least = np.maximum(np.searchsorted(widths, before), self.lowest_c[column]).astype(np.int8)
            least_n = least[index_n]
            index_n = (shares_cn[column] * (len(widths) - least_n).astype(np.float32)).astype(np.int8) + least_n
            genotypes_cn[column], previous = index_n, stage.name
        return np.ascontiguousarray(genotypes_cn.T)
