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

The reference picks from a table of 150,000 networks per level, made beforehand. Here they are drawn when they are
needed, from the same distribution, thousands at a time: that is slower in rare levels (the one of 500 million takes one
draw in 2,800), but nothing has to be made or stored first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from search_spaces import Architecture, Genotypes, SearchSpace, population_cost
from search_spaces.elastic import ELASTIC, ElasticSpace
from search_spaces.elastic_reference import reference_macs_total

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
        self._floors: list[_Floor] = []
        self.levels = self._published() if _is_published(space) else self._derived()

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, index: int) -> Level:
        return self.levels[index]

    def draw(self, index: int, count: int, generator: np.random.Generator) -> list[Architecture]:
        """``count`` networks of a level, drawn independently from those at least as large as its smallest."""
        level, accepted = self[index], np.empty((0, len(self.space.choices)), dtype=np.int8)
        while len(accepted) < count:
            drawn = self._floors[level.group].sample(_DRAWN, generator)
            macs = level_macs(self.space, drawn)
            accepted = np.concatenate([accepted, drawn[(macs >= level.lowest) & (macs <= level.highest)]])
        return self.space.decode(accepted[:count])

    def _published(self) -> list[Level]:
        base = dict(self.space.smallest.settings)
        smallest = [self.space.from_values({**base, **changes}) for changes in PUBLISHED_SMALLEST]
        self._floors = [_Floor(self.space, network) for network in smallest]
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
                self._floors.append(_Floor(self.space, even))
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


def level_macs(space: SearchSpace, genotypes: Genotypes) -> npt.NDArray[np.int64]:
    """The MACs ``[n]`` that levels go by: ElasticViT's own formula for its family, the exact count elsewhere."""
    if isinstance(space, ElasticSpace):
        return reference_macs_total(space, genotypes)
    return population_cost(space, genotypes).macs


class _Floor:
    """Draws networks of a space that are at least as large as one of them.

    In the ElasticViT family the input side, widths, depths and widths of values are bounded, as published; kernels and
    the ratios of expansions and feed-forward layers are free. Elsewhere every choice is bounded. None bounds nothing.
    """

    def __init__(self, space: SearchSpace, smallest: Architecture | None) -> None:
        self.space = space
        self.lowest = np.zeros(len(space.choices), dtype=np.int8)
        self.restricted: ElasticSpace | None = None
        if smallest is None:
            return
        self.lowest = space.encode([smallest])[0]
        if isinstance(space, ElasticSpace):
            self.restricted = _restricted(space, smallest)
            first = zip(space.choices, self.restricted.choices, strict=True)
            self.lowest = np.array([whole.values.index(part.values[0]) for whole, part in first], dtype=np.int8)

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Some genotypes; ``count`` unless rules between choices exclude some of the draws, one at least."""
        if not self.lowest.any():
            return self.space.sample(count, generator)
        if self.restricted is not None:
            return np.asarray(self.restricted.sample(count, generator) + self.lowest, dtype=np.int8)
        while True:
            shape = (count, len(self.lowest))
            drawn = generator.integers(self.lowest, self.space.cardinalities, size=shape).astype(np.int8)
            drawn = drawn[self.space.is_valid(drawn)]
            if len(drawn):
                return np.asarray(drawn, dtype=np.int8)


def _restricted(space: ElasticSpace, smallest: Architecture) -> ElasticSpace:
    """The part of a space whose bounded choices are at least those of ``smallest``."""

    def above(values: tuple[int, ...], choice: str) -> tuple[int, ...]:
        return tuple(value for value in values if value >= smallest[choice])

    definition = space.definition
    stages = tuple(
        replace(
            stage,
            widths=above(stage.widths, f"{stage.name}.width"),
            depths=above(stage.depths, f"{stage.name}.depth"),
            extra=tuple(
                (name, above(values, f"{stage.name}.{name}") if name == "v_scale" else values)
                for name, values in stage.extra
            ),
        )
        for stage in definition.stages
    )
    bounded = replace(
        definition,
        sides=above(definition.sides, "input.side"),
        stem_widths=above(definition.stem_widths, "stem.width"),
        stem_depths=above(definition.stem_depths, "stem.depth"),
        stages=stages,
    )
    return ElasticSpace(bounded, space.classes)


def _group(number: int) -> int:
    return sum(number >= start for start in _GROUP_STARTS) - 1


def _is_published(space: SearchSpace) -> bool:
    return isinstance(space, ElasticSpace) and space.definition is ELASTIC
