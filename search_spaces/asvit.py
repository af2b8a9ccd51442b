"""The As-ViT family of spaces: `asvit` (seed topologies), `asvit-grown` (deeper and wider), `asvit-mini` (32 pixels).

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921; candidates as in
its reference implementation. There a seed is searched first and grown afterwards; `asvit` holds the seeds and
`asvit-grown` what they can grow into. An architecture can also be named by its topology's text, see
`search_spaces.asvit_topology`.

Large's depths and width are published; Small's and Base's are the only ones of the family that fit the published
parameters and MACs together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from search_spaces.architecture import Architecture
from search_spaces.asvit_blocks import AsvitBlock
from search_spaces.asvit_progressive import coarse_blocks
from search_spaces.asvit_topology import (
    SEED_WIDTH,
    STAGES,
    AsvitTopology,
    Frame,
    parse_topology,
    topology_blocks,
    topology_graph,
)
from search_spaces.errors import ArchitectureError
from search_spaces.graph import Shape
from search_spaces.space import Choice, SearchSpace, Slot

__all__ = [
    "ASVIT",
    "ASVIT_GROWN",
    "ASVIT_MINI",
    "AsvitDefinition",
    "AsvitSpace",
    "AsvitTopology",
    "Frame",
    "parse_topology",
    "topology_blocks",
    "topology_graph",
]

Candidates = tuple[int, ...]


@dataclass(frozen=True)
class AsvitDefinition:
    """What tells one space of the family from another. A dimension with one candidate is no choice.

    Attributes:
        image_side: Side of the image in pixels.
        patch_stride: Pixels from one patch to the next.
        kernels: Candidate kernels of each stage.
        splits: Candidate splits of each stage.
        expansions: Candidate expansions of each stage.
        depths: Candidate depths of each stage.
        heads: Candidates for the heads of the last stage.
        widths: Candidates for the channels of the first stage.
        classes: Number of classes unless asked otherwise.
        position_embedding: Whether the networks have one.
        named: Published networks by name, as text.
        grown: The space whose networks can be named in this one too; None for none.
    """

    name: str
    description: str
    image_side: int
    patch_stride: int
    kernels: tuple[Candidates, ...]
    splits: tuple[Candidates, ...]
    expansions: tuple[Candidates, ...]
    depths: tuple[Candidates, ...]
    heads: Candidates
    widths: Candidates
    classes: int
    position_embedding: bool
    named: Mapping[str, str]
    grown: AsvitDefinition | None = None

    def candidates(self) -> dict[str, Candidates]:
        """The candidates of every dimension, in the order of a topology's text."""
        found = {}
        for index, stage in enumerate(STAGES):
            found[f"stage{stage}.kernel"] = self.kernels[index]
            found[f"stage{stage}.splits"] = self.splits[index]
            found[f"stage{stage}.expansion"] = self.expansions[index]
            found[f"stage{stage}.depth"] = self.depths[index]
        return {**found, "heads": self.heads, "width": self.widths}


class AsvitSpace(SearchSpace):
    """A space of the As-ViT family: kernel, splits, expansion and depth per stage, heads and width for all.

    Args:
        definition: The space's candidate values.
        classes: Number of classes to tell apart; None takes the definition's.

    Raises:
        ArchitectureError: The map of a stage cannot be cut into a number of splits that the definition offers.
    """

    def __init__(self, definition: AsvitDefinition, classes: int | None = None) -> None:
        self.definition = definition
        self.name = definition.name
        self.description = definition.description
        self.image_side = definition.image_side
        self.classes = classes or definition.classes
        self.frame = Frame(
            definition.image_side,
            definition.patch_stride,
            self.classes,
            definition.position_embedding,
            min(definition.heads),
        )
        candidates = definition.candidates()
        self._fixed = {name: values[0] for name, values in candidates.items() if len(values) == 1}
        self._candidates = {name: values for name, values in candidates.items() if len(values) > 1}
        for stage, splits in zip(STAGES, definition.splits, strict=True):
            for count in splits:
                self.frame.check_splits(stage, count)

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Stage by stage, then heads and width."""
        return tuple(Choice(name, values) for name, values in self._candidates.items())

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Patch embedding, stages with a re-embedding in front, head."""
        slots = []
        for stage in STAGES:
            entry = "patch" if stage == 1 else f"embed{stage}"
            slots.append(self._slot(entry, f"stage{stage}.kernel", "width"))
            size = (f"stage{stage}.splits", f"stage{stage}.expansion", "heads", "width")
            depth = f"stage{stage}.depth"
            if depth in self._candidates:
                slots.append(replace(self._slot(f"stage{stage}", *size), repeats=depth))
            else:
                slots += [self._slot(f"stage{stage}.{number}", *size) for number in range(self._fixed[depth])]
        return (*slots, self._slot("head", "width"))

    def _slot(self, name: str, *dimensions: str) -> Slot:
        return Slot(name, tuple(dimension for dimension in dimensions if dimension in self._candidates))

    def block(self, slot: str, values: Mapping[str, int]) -> AsvitBlock:
        """The block in ``slot``; ``values`` holds at least the slot's choices."""
        return self.frame.block(slot, {**self._fixed, **values})

    def coarse_blocks(self, architecture: Architecture, patch_stride: int) -> Iterator[tuple[str, AsvitBlock]]:
        """The blocks with the same weights on patches that are ``patch_stride`` times as far apart."""
        return coarse_blocks(topology_blocks(self.topology(architecture), self.frame), patch_stride)

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(3, side, side)`` of the image that the network computes on."""
        return (3, self.image_side, self.image_side)

    # -- topologies ----------------------------------------------------------------------------------------------

    def topology(self, architecture: Architecture) -> AsvitTopology:
        """An architecture of this space as a topology, whose ``str`` names it."""
        return AsvitTopology.from_values({**self._fixed, **dict(architecture.settings)})

    def from_topology(self, topology: AsvitTopology) -> Architecture:
        """The architecture of this space with the numbers of ``topology``.

        Raises:
            ArchitectureError: The space does not offer one of them.
        """
        values = topology.values()
        for name, value in self._fixed.items():
            if values[name] != value:
                raise ArchitectureError(f"topology `{topology}`: `{name}` is {values[name]}, in `{self.name}` {value}")
        return self.from_values({name: values[name] for name in self._candidates})

    def from_text(self, text: str) -> Architecture:
        """The architecture that a topology's text names: of this space, else of the one that this one grows into.

        Raises:
            ArchitectureError: The text has another form, or neither space offers the network.
        """
        topology = parse_topology(text)
        if self._grown is None:
            return self.from_topology(topology)
        try:
            return self.from_topology(topology)
        except ArchitectureError:
            return self._grown.from_topology(topology)

    @cached_property
    def named(self) -> Mapping[str, Architecture]:
        """The published networks of this space."""
        return {name: self.from_topology(parse_topology(text)) for name, text in self.definition.named.items()}

    @property
    def related(self) -> Mapping[str, Architecture]:
        """The published networks of the space that this one grows into."""
        return {} if self._grown is None else self._grown.named

    @cached_property
    def _grown(self) -> AsvitSpace | None:
        grown = self.definition.grown
        return None if grown is None else AsvitSpace(grown, self.classes)


ASVIT_GROWN = AsvitDefinition(
    name="asvit-grown",
    description="As-ViT, seeds and what grows from them by depth and width, with position embedding, 224 pixels",
    image_side=224,
    patch_stride=4,
    kernels=((4, 5, 6, 7, 8), (2, 3, 4), (2, 3, 4), (2, 3, 4)),
    splits=((2, 4, 8), (1, 2, 4), (1, 2), (1,)),
    expansions=((2, 3, 4, 5, 6),) * 4,
    depths=(tuple(range(1, 9)),) * 4,
    heads=(16, 32, 64),
    widths=tuple(range(16, 257, 4)),
    classes=1000,
    position_embedding=True,
    named={
        "small": "8,2,3,3|4,1,2,1|4,1,4,4|4,1,6,2|32,88",
        "base": "8,2,3,3|4,1,2,1|4,1,4,5|4,1,6,2|32,116",
        "large": "8,2,3,5|4,1,2,2|4,1,4,5|4,1,6,2|32,180",
    },
)

ASVIT = replace(
    ASVIT_GROWN,
    name="asvit",
    description="As-ViT, seed topologies: width 32, one block per stage, no position embedding, 224 pixels",
    depths=((1,),) * 4,
    widths=(SEED_WIDTH,),
    position_embedding=False,
    named={"seed": "8,2,3|4,1,2|4,1,4|4,1,6|32"},
    grown=ASVIT_GROWN,
)

ASVIT_MINI = AsvitDefinition(
    name="asvit-mini",
    description="the As-ViT family for 32-pixel images, small enough to train on two cores",
    image_side=32,
    patch_stride=2,
    kernels=((2, 3, 4), (2, 3), (2, 3), (2, 3)),
    splits=((2, 4), (1, 2), (1, 2), (1,)),
    expansions=((2, 3, 4),) * 4,
    depths=((1, 2),) * 4,
    heads=(8, 16, 32),
    widths=(8, 10, 12, 16),
    classes=10,
    position_embedding=True,
    named={},
)
