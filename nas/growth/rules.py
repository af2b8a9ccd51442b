"""Which larger networks one step of growth tries.

As-ViT's rule is that of Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921:
every step adds one block to one stage and picks one of a few larger widths, and the metrics are those of a proxy of a
quarter of the width. Other spaces grow by their own choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nas.errors import UsageError
from search_spaces import Architecture, ArchitectureError, SearchSpace, get_space
from search_spaces.asvit import AsvitSpace
from search_spaces.asvit_topology import AsvitTopology, topology_graph

if TYPE_CHECKING:
    from nas.scores.features import Build

WIDTH_FACTORS = (1.05, 1.10, 1.15, 1.20)
PROXY_DIVISOR = 4
ASVIT_SPACES, GROWN = ("asvit", "asvit-grown"), "asvit-grown"


@dataclass(frozen=True)
class Size:
    """What a limit on size is held against.

    Attributes:
        params: Learned numbers.
        macs: Multiply-accumulates of one image.
    """

    params: int
    macs: int


class GrowthRule(Protocol):
    """How networks of one space grow."""

    space: SearchSpace
    overshoot: float
    """By what factor a member may exceed a limit on size; growth ends with the first that reaches the limit."""

    def candidates(self, architecture: Architecture) -> list[Architecture]:
        """The larger networks of the space that one step from ``architecture`` may lead to."""
        ...

    def size(self, architecture: Architecture) -> Size:
        """What limits on size are held against."""
        ...

    def build(self, architecture: Architecture) -> Build:
        """Makes the network whose metrics stand for the architecture; picklable."""
        ...


class AsvitGrowth:
    """As-ViT's rule: one more block and one of up to four widths per step, judged at a quarter of the width.

    Sizes are those without position embedding, as in the reference. Deviation: depths and widths end where the space
    `asvit-grown` ends, at 8 blocks in a stage and width 256.
    """

    overshoot = 110 / 80

    def __init__(self) -> None:
        self.space: SearchSpace = get_space(GROWN)

    def start(self, architecture: Architecture) -> Architecture:
        """An architecture of either As-ViT space as one that can grow.

        Raises:
            UsageError: Its depths or width are not ones that growth starts from.
        """
        space = get_space(architecture.space)
        assert isinstance(space, AsvitSpace)
        try:
            return self._of(space.topology(architecture))
        except ArchitectureError as error:
            raise UsageError(f"this network cannot be grown: {error}") from error

    def candidates(self, architecture: Architecture) -> list[Architecture]:
        """One more block in one stage, times the widths; at most 16."""
        found = []
        for topology in grown_topologies(self.topology(architecture)):
            try:
                found.append(self._of(topology))
            except ArchitectureError:
                continue  # beyond what the space offers
        return found

    def size(self, architecture: Architecture) -> Size:
        """Of the network itself, not of its proxy."""
        graph = topology_graph(self.topology(architecture))
        return Size(graph.params, graph.macs)

    def build(self, architecture: Architecture) -> Build:
        """The proxy of a quarter of the width."""
        from supernets.families.asvit import build_topology

        topology = self.topology(architecture)
        return partial(build_topology, replace(topology, width=topology.width // PROXY_DIVISOR))

    def topology(self, architecture: Architecture) -> AsvitTopology:
        """The topology of an architecture of the space."""
        assert isinstance(self.space, AsvitSpace)
        return self.space.topology(architecture)

    def _of(self, topology: AsvitTopology) -> Architecture:
        assert isinstance(self.space, AsvitSpace)
        return self.space.from_topology(topology)


def grown_topologies(topology: AsvitTopology) -> list[AsvitTopology]:
    """All topologies one step of As-ViT's growth leads to: one more block in one stage times the larger widths."""
    found = []
    for stage in range(len(topology.depths)):
        first, second, third, fourth = (depth + (position == stage) for position, depth in enumerate(topology.depths))
        for proxy_width in larger_widths(topology.width // PROXY_DIVISOR):
            depths = (first, second, third, fourth)
            found.append(replace(topology, depths=depths, width=proxy_width * PROXY_DIVISOR))
    return found


def larger_widths(proxy_width: int) -> list[int]:
    """The widths of a proxy that one step tries: 5 to 20 % more, halves rounded to even, without repetitions."""
    return list(dict.fromkeys(round(proxy_width * factor) for factor in WIDTH_FACTORS))


class ChoiceGrowth:
    """Growth within a space's own choices: the next depth of one stage, the next width of one or of all, or both.

    Candidates: each depth alone, each width alone, all widths at once, and these together with each depth. Networks are
    judged themselves, without a proxy.

    Raises:
        UsageError: The space has no choices of depth or width.
    """

    overshoot = 1.0

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        kinds = {name: name.rpartition(".")[2] for name in space.columns}
        self._depths = [space.columns[name] for name, kind in kinds.items() if kind == "depth"]
        self._widths = [space.columns[name] for name, kind in kinds.items() if kind == "width"]
        if not self._depths and not self._widths:
            raise UsageError(f"networks of space `{space.name}` cannot be grown: it has no choices of depth or width")

    def candidates(self, architecture: Architecture) -> list[Architecture]:
        """Neighbours that are nowhere smaller, without repetitions."""
        row = self.space.encode([architecture])[0]
        deeper: list[Sequence[int]] = [[column] for column in self._depths]
        wider: list[Sequence[int]] = [[column] for column in self._widths]
        both = [[*self._widths, *depth] for depth in deeper]
        moves = [*deeper, *wider, self._widths, *both]
        grown = np.repeat(row[None], len(moves), axis=0)
        for position, columns in enumerate(moves):
            grown[position, columns] += 1
        grown = np.minimum(grown, self.space.cardinalities - 1).astype(np.int8)
        grown = self.space.repair(grown)
        larger = grown[(grown >= row).all(axis=1) & (grown > row).any(axis=1)]
        return list(dict.fromkeys(self.space.decode(larger)))

    def size(self, architecture: Architecture) -> Size:
        """Of the network."""
        graph = self.space.lower(architecture)
        return Size(graph.params, graph.macs)

    def build(self, architecture: Architecture) -> Build:
        """The network itself."""
        from supernets.family import build_network

        return partial(build_network, self.space, architecture)


def growth_rule(architecture: Architecture) -> tuple[GrowthRule, Architecture]:
    """The rule by which an architecture grows, and the architecture in that rule's space.

    Raises:
        UsageError: It cannot be grown.
    """
    if architecture.space in ASVIT_SPACES:
        rule = AsvitGrowth()
        return rule, rule.start(architecture)
    return ChoiceGrowth(get_space(architecture.space)), architecture
