"""Complexity levels: windows of MACs, the smallest network that goes with each, and networks drawn from them.

Source: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse
Mobile Devices", ICCV 2023, arXiv 2303.09730, and its reference implementation.

For `elastic` levels, windows and smallest networks are the published ones, in the published MAC formula. Any other
space has levels by this rule: eight MACs at equal ratios between the 5 % and the 95 % quantile of drawn networks, each
moved up to the next drawn network, with windows of a tenth. As published, one smallest network goes with the lowest
quarter of the levels, one with the next and one with the upper half: the cheapest of the drawn networks and the space's
smallest, then the last network of at most 0.55 times the MACs of the lowest level that it goes with, on the way from
the smallest choices to the largest that raises one choice at a time, always one at the lowest share of its range. Where
there is none, the cheapest serves again and nothing is bounded.

Networks are picked from a table of 150,000 per level, see `supernets.sampling.level_tables`. As published, a table
reaches half a window above its level, and what is picked is drawn again until it lies in the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from search_spaces import Architecture, Genotypes, SearchSpace, population_cost
from search_spaces.elastic import ELASTIC, ElasticSpace
from search_spaces.elastic_reference import reference_macs_total
from supernets.sampling.floors import Floor
from supernets.sampling.level_tables import EXCESS, ROWS, Counts, Progress, TableRange, make_tables

PUBLISHED_LEVELS = (100, 200, 300, 400, 500, 700, 900, 1200)
"""In millions of MACs."""
PUBLISHED_WINDOW = 20
_DEPTHS = {"C1.depth": 3, "C2.depth": 3, "T1.depth": 2, "T2.depth": 2, "T3.depth": 2, "T4.depth": 2}
_MEDIUM_WIDTHS = {"C1.width": 24, "C2.width": 32, "T1.width": 48, "T2.width": 96, "T3.width": 176, "T4.width": 224}
_LARGE_WIDTHS = {"C1.width": 24, "C2.width": 32, "T1.width": 64, "T2.width": 96, "T3.width": 192, "T4.width": 256}
PUBLISHED_SMALLEST: tuple[Mapping[str, int], ...] = (
    {},
    {"input.side": 176, **_MEDIUM_WIDTHS, **_DEPTHS, "T2.mlp_ratio": 3},
    {"input.side": 224, **_LARGE_WIDTHS, **_DEPTHS},
)
"""In what the smallest network of each group of levels differs from the space's smallest."""
LEVELS = len(PUBLISHED_LEVELS)
_GROUP_STARTS = (0, LEVELS // 4, LEVELS // 2)
"""The lowest level of each group: those of one smallest network."""
DERIVED_WINDOW = 0.1
DERIVED_SMALLEST = 0.55
"""Published smallest networks have 0.37 to 0.58 times the MACs of the lowest level that they go with."""
_QUANTILES = (0.05, 0.95)
_DRAWN = 4096


@dataclass(frozen=True)
class Level:
    """One complexity level.

    Attributes:
        lowest: Fewest MACs of its networks.
        highest: Most MACs.
        smallest: The smallest network that is trained with those of the level; none of them is smaller in a dimension
            that is bounded.
        group: Number of its smallest network, from 0.
    """

    lowest: int
    highest: int
    smallest: Architecture
    group: int


class Levels:
    """The complexity levels of a space, ascending.

    Args:
        space: The search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._floors: list[Floor] = []
        self._rows: list[Genotypes] = []
        self.levels = self._published() if _is_published(space) else self._derived()

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: int) -> Level:
        return self.levels[index]

    def prepare(self, progress: Progress | None = None, *, rows: int = ROWS) -> None:
        """Read or make the tables that networks are drawn from, unless that was done before.

        For a space as large as `elastic` that takes minutes once, later seconds.

        Args:
            progress: Called with the networks found and the networks wanted, over all tables.
            rows: Networks in each table.

        Raises:
            SupernetError: A level has no networks.
        """
        if self._rows:
            return
        ranges = []
        for level in self.levels:
            above = int(EXCESS * (level.highest - level.lowest))
            ranges.append(TableRange(self._floors[level.group], level.lowest, level.highest + above))

        def macs(genotypes: Genotypes) -> Counts:
            return level_macs(self.space, genotypes)

        tables = make_tables(self.space, ranges, macs, rows=rows, progress=progress)
        # To draw from a table until a network lies in the window is to draw from its networks in the window.
        self._rows = [table[macs(table) <= level.highest] for table, level in zip(tables, self.levels, strict=True)]

    def draw(self, index: int, count: int, generator: np.random.Generator) -> list[Architecture]:
        """``count`` networks of a level, drawn independently from its table."""
        self.prepare()
        rows = self._rows[index]
        return self.space.decode(rows[generator.integers(len(rows), size=count)])

    def _published(self) -> list[Level]:
        base = dict(self.space.smallest.settings)
        smallest = [self.space.from_values({**base, **changes}) for changes in PUBLISHED_SMALLEST]
        self._floors = [Floor(self.space, network) for network in smallest]
        levels = []
        for number, millions in enumerate(PUBLISHED_LEVELS):
            group = _group(number)
            highest = millions + PUBLISHED_WINDOW
            levels.append(Level(millions * 1_000_000, highest * 1_000_000, smallest[group], group))
        return levels

    def _derived(self) -> list[Level]:
        generator = np.random.default_rng(0)
        genotypes = np.concatenate([self.space.encode([self.space.smallest]), self.space.sample(_DRAWN, generator)])
        macs = level_macs(self.space, genotypes)
        cheapest = self.space.decode(genotypes[[int(np.argmin(macs))]])[0]
        levels: list[Level] = []
        low, high = (float(np.quantile(macs, quantile)) for quantile in _QUANTILES)
        for number, wanted in enumerate(np.geomspace(low, high, LEVELS)):
            group = _group(number)
            if number in _GROUP_STARTS:
                even = None if group == 0 else self._even(DERIVED_SMALLEST * wanted)
                smallest = even or cheapest
                self._floors.append(Floor(self.space, even))
                present = np.sort(level_macs(self.space, self._floors[group].sample(_DRAWN, generator)))
            lowest = int(present[min(int(np.searchsorted(present, wanted)), len(present) - 1)])
            if not levels or lowest > levels[-1].lowest:
                levels.append(Level(lowest, int(lowest * (1 + DERIVED_WINDOW)), smallest, group))
        return levels

    def _even(self, most: float) -> Architecture | None:
        """The last network of at most ``most`` MACs on an even way from the smallest choices to the largest."""
        sizes = self.space.cardinalities.tolist()
        moves = sorted((index / (size - 1), column) for column, size in enumerate(sizes) for index in range(1, size))
        genotypes = np.zeros((len(moves) + 1, len(sizes)), dtype=np.int8)
        for row, (_, column) in enumerate(moves):
            genotypes[row + 1 :, column] += 1
        genotypes = self.space.repair(genotypes)
        fits = np.flatnonzero(level_macs(self.space, genotypes) <= most)
        return self.space.decode(genotypes[fits[-1:]])[0] if len(fits) else None


_levels: WeakKeyDictionary[SearchSpace, Levels] = WeakKeyDictionary()


def levels_of(space: SearchSpace) -> Levels:
    """The complexity levels of a space, made once."""
    found = _levels.get(space)
    if found is None:
        found = _levels[space] = Levels(space)
    return found


def level_macs(space: SearchSpace, genotypes: Genotypes) -> Counts:
    """The MACs ``[n]`` that levels go by: ElasticViT's own formula for its family, the exact count elsewhere."""
    if isinstance(space, ElasticSpace):
        return reference_macs_total(space, genotypes)
    return population_cost(space, genotypes).macs


def _group(number: int) -> int:
    return sum(number >= start for start in _GROUP_STARTS) - 1


def _is_published(space: SearchSpace) -> bool:
    return isinstance(space, ElasticSpace) and space.definition is ELASTIC
