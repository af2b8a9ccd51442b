"""As-ViT topologies: one network in a line of text, and its blocks at any size.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. A topology is
written ``K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|h[,H]``: of each stage the kernel of its (re-)embedding, the splits of
its map per side, the expansion of its feed-forward networks and its depth (1 if absent); then the heads of the last
stage and the width of the first (32 if absent).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from search_spaces.asvit_blocks import AsvitBlock, Head, PatchEmbed, Reembed, WindowLayer
from search_spaces.errors import ArchitectureError
from search_spaces.graph import OpGraph

STAGES = (1, 2, 3, 4)
SEED_WIDTH = 32
LARGEST_WIDTH = 1024
"""No stage is wider, as in the reference; without the cap the published Large network would have 127 M parameters."""
FORM = "`K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|K,S,E[,L]|h[,H]`, for example `8,2,3|4,1,2|4,1,4|4,1,6|32`"

FourInts = tuple[int, int, int, int]


@dataclass(frozen=True)
class AsvitTopology:
    """One network of the family, at any depth and width; ``str`` gives its text form, `parse_topology` reads it.

    Attributes:
        kernels: Side of the patch in pixels, then of each later stage's re-embedding in tokens.
        splits: Windows per side of each stage's map.
        expansions: Hidden channels per channel in each stage's feed-forward networks.
        heads: Attention heads of the last stage; a multiple of 8, since each earlier stage has half as many.
        depths: Blocks of each stage.
        width: Channels of the first stage; each later stage has twice as many, up to 1024.

    Raises:
        ArchitectureError: A number is below 1, or ``heads`` is no multiple of 8.
    """

    kernels: FourInts
    splits: FourInts
    expansions: FourInts
    heads: int
    depths: FourInts = (1, 1, 1, 1)
    width: int = SEED_WIDTH

    def __post_init__(self) -> None:
        numbers = (*self.kernels, *self.splits, *self.expansions, *self.depths, self.heads, self.width)
        if min(numbers) < 1:
            raise ArchitectureError(f"topology `{self}`: found {min(numbers)}, expected numbers of 1 or more")
        if self.heads % 8:
            raise ArchitectureError(f"topology `{self}`: found {self.heads} heads, expected a multiple of 8")
        if self.width < self.heads // 8:
            raise ArchitectureError(
                f"topology `{self}`: found width {self.width} for {self.heads // 8} heads in the first stage, expected"
                " one channel per head or more"
            )

    def __str__(self) -> str:
        stages = zip(self.kernels, self.splits, self.expansions, self.depths, strict=True)
        with_depth = self.depths != (1, 1, 1, 1)
        parts = [",".join(map(str, stage if with_depth else stage[:3])) for stage in stages]
        last = str(self.heads) if self.width == SEED_WIDTH else f"{self.heads},{self.width}"
        return "|".join([*parts, last])

    def values(self) -> dict[str, int]:
        """The same numbers by the names that choices of As-ViT spaces have."""
        values = {"heads": self.heads, "width": self.width}
        for index, stage in enumerate(STAGES):
            values[f"stage{stage}.kernel"] = self.kernels[index]
            values[f"stage{stage}.splits"] = self.splits[index]
            values[f"stage{stage}.expansion"] = self.expansions[index]
            values[f"stage{stage}.depth"] = self.depths[index]
        return values

    @classmethod
    def from_values(cls, values: Mapping[str, int]) -> AsvitTopology:
        """The topology with these `values`."""

        def of_stages(name: str) -> FourInts:
            first, second, third, fourth = (values[f"stage{stage}.{name}"] for stage in STAGES)
            return first, second, third, fourth

        return cls(
            of_stages("kernel"),
            of_stages("splits"),
            of_stages("expansion"),
            values["heads"],
            of_stages("depth"),
            values["width"],
        )


def parse_topology(text: str) -> AsvitTopology:
    """Read a topology's text form; spaces are ignored.

    Raises:
        ArchitectureError: The text has another form, or its numbers make no network.
    """
    parts = [part.split(",") for part in re.sub(r"\s", "", text).split("|")]
    lengths = [len(part) for part in parts]
    if len(parts) != 5 or lengths[-1] not in (1, 2) or any(length not in (3, 4) for length in lengths[:-1]):
        raise ArchitectureError(f"topology `{text}`: expected {FORM}")
    for word in (word for part in parts for word in part):
        if not re.fullmatch(r"[0-9]{1,4}", word):
            raise ArchitectureError(f"topology `{text}`: found `{word}` for a number, expected {FORM}")
    first, second, third, fourth, last = ([int(word) for word in part] for part in parts)
    kernels, splits, expansions, depths = (
        (a, b, c, d) for a, b, c, d in zip(*((*stage, 1)[:4] for stage in (first, second, third, fourth)), strict=True)
    )
    heads, width = (*last, SEED_WIDTH)[:2]
    return AsvitTopology(kernels, splits, expansions, heads, depths, width)


@dataclass(frozen=True)
class Frame:
    """What the networks of one space have in common.

    Attributes:
        image_side: Side of the image in pixels.
        patch_stride: Pixels from one patch to the next.
        classes: Number of classes to tell apart.
        position_embedding: Whether a learned number is added to every channel of every token after the patch
            embedding. The reference searches and scales without, but the published parameter counts include it.
        fewest_heads: Heads that the last stage has at least, a multiple of 8; 0 where nothing is shared.
    """

    image_side: int = 224
    patch_stride: int = 4
    classes: int = 1000
    position_embedding: bool = False
    fewest_heads: int = 0

    def side(self, stage: int) -> int:
        """Side of the map of tokens in ``stage``, from 1."""
        side = -(-self.image_side // self.patch_stride)
        for _ in range(stage - 1):
            side = -(-side // 2)
        return side

    def block(self, slot: str, values: Mapping[str, int]) -> AsvitBlock:
        """The block ``patch``, ``embed2`` to ``embed4``, ``stage1`` to ``stage4`` or ``head``.

        Args:
            slot: Name of the block; what follows a dot is ignored.
            values: At least those of `AsvitTopology.values` that concern the block.

        Raises:
            ArchitectureError: The map of a stage cannot be cut into so many splits.
        """
        kind = slot.partition(".")[0]
        if kind == "patch":
            grid = self.side(1) if self.position_embedding else 0
            kernel = values["stage1.kernel"]
            return PatchEmbed(self.image_side, values["width"], kernel, self.patch_stride, 1, grid)
        if kind == "head":
            return Head(self.side(4), stage_width(4, values["width"]), self.classes)
        stage = int(kind[-1])
        width = stage_width(stage, values["width"])
        if kind.startswith("embed"):
            in_width = stage_width(stage - 1, values["width"])
            return Reembed(self.side(stage - 1), in_width, width, values[f"stage{stage}.kernel"], 2)
        splits = values[f"stage{stage}.splits"]
        self.check_splits(stage, splits)
        heads, groups = (count // 2 ** (4 - stage) for count in (values["heads"], self.fewest_heads))
        return WindowLayer(self.side(stage), width, heads, splits, values[f"stage{stage}.expansion"], max(1, groups))

    def check_splits(self, stage: int, splits: int) -> None:
        """Make sure that the map of ``stage`` can be cut ``splits`` times per side.

        Raises:
            ArchitectureError: It cannot.
        """
        side = self.side(stage)
        if side % splits:
            raise ArchitectureError(
                f"stage {stage} has a map of {side} x {side} tokens for images of {self.image_side} pixels: found"
                f" {splits} splits per side, expected a divisor of {side}"
            )


def stage_width(stage: int, width: int) -> int:
    """Channels of ``stage``, from 1, when the first stage has ``width``."""
    return width if stage == 1 else min(width * 2 ** (stage - 1), LARGEST_WIDTH)


def topology_blocks(topology: AsvitTopology, frame: Frame) -> Iterator[tuple[str, AsvitBlock]]:
    """The named blocks of a topology, from input to output.

    Raises:
        ArchitectureError: The map of a stage cannot be cut into so many splits.
    """
    values = topology.values()
    yield "patch", frame.block("patch", values)
    for stage, depth in zip(STAGES, topology.depths, strict=True):
        if stage > 1:
            yield f"embed{stage}", frame.block(f"embed{stage}", values)
        for number in range(depth):
            yield f"stage{stage}.{number}", frame.block(f"stage{stage}", values)
    yield "head", frame.block("head", values)


def topology_graph(
    topology: AsvitTopology, classes: int = 1000, *, position_embedding: bool = False, image_side: int = 224
) -> OpGraph:
    """The op graph of any topology: its parameters, MACs and operators.

    Args:
        topology: The network.
        classes: Number of classes to tell apart.
        position_embedding: Whether there is one; see `Frame`.
        image_side: Side of the image in pixels.

    Raises:
        ArchitectureError: The map of a stage cannot be cut into so many splits.
    """
    frame = Frame(image_side, classes=classes, position_embedding=position_embedding)
    blocks = [(name, block.ops()) for name, block in topology_blocks(topology, frame)]
    return OpGraph(blocks, (3, image_side, image_side))
