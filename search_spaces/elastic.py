"""The ElasticViT family of search spaces: `elastic` (the published one) and `elastic-mini` (32-pixel images).

Source: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse
Mobile Devices", ICCV 2023, arXiv 2303.09730; choices and published networks as in its reference implementation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.elastic_blocks import ConvBlock, ElasticBlock, FirstConv, Head, StemBlock, TransformerLayer
from search_spaces.graph import Shape
from search_spaces.space import Choice, Genotypes, SearchSpace, Slot

HEAD_WIDTH = 16
ENTRY_EXPANSION, ENTRY_KERNEL = 6, 3


@dataclass(frozen=True)
class Stage:
    """A run of blocks of one width.

    Attributes:
        name: ``C...`` for convolutional stages, ``T...`` for transformer stages.
        stride: Stride of the stage's first block.
        extra: The choices that only this kind of stage has: ``expansion`` and ``kernel``, or ``mlp_ratio`` and
            ``v_scale``.
        squeeze_excite: Whether convolution blocks scale their channels by a squeeze-and-excitation gate.
    """

    name: str
    stride: int
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    extra: tuple[tuple[str, tuple[int, ...]], ...]
    squeeze_excite: bool = False

    @property
    def is_transformer(self) -> bool:
        """Whether the stage's layers attend."""
        return self.name.startswith("T")


def conv_stage(
    name: str,
    stride: int,
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    expansions: tuple[int, ...],
    kernels: tuple[int, ...],
    squeeze_excite: bool,
) -> Stage:
    """A stage of inverted residual blocks."""
    return Stage(name, stride, depths, widths, (("expansion", expansions), ("kernel", kernels)), squeeze_excite)


def transformer_stage(
    name: str,
    stride: int,
    depths: tuple[int, ...],
    widths: tuple[int, ...],
    mlp_ratios: tuple[int, ...],
    v_scales: tuple[int, ...],
) -> Stage:
    """A stage of transformer layers behind one inverted residual block (its entry)."""
    return Stage(name, stride, depths, widths, (("mlp_ratio", mlp_ratios), ("v_scale", v_scales)))


@dataclass(frozen=True)
class ElasticDefinition:
    """What tells one space of the family from another."""

    name: str
    description: str
    image_side: int
    sides: tuple[int, ...]
    stem_widths: tuple[int, ...]
    stem_depths: tuple[int, ...]
    stem_kernels: tuple[int, ...]
    stem_stride: int
    stages: tuple[Stage, ...]
    head_expansion: int
    head_features: int
    classes: int
    named: Mapping[str, Mapping[str, int]]


class ElasticSpace(SearchSpace):
    """A space of the ElasticViT family; width, depth and ratios are chosen per stage, widths never decrease.

    Args:
        definition: The space's stages and candidate values.
        classes: Number of classes to tell apart; None takes the definition's.
    """

    def __init__(self, definition: ElasticDefinition, classes: int | None = None) -> None:
        self.definition = definition
        self.name = definition.name
        self.description = definition.description
        self.image_side = definition.image_side
        self.classes = classes or definition.classes

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """Input side, stem, then width, depth and ratios of each stage."""
        definition = self.definition
        choices = [
            Choice("input.side", definition.sides),
            Choice("stem.width", definition.stem_widths),
            Choice("stem.depth", definition.stem_depths),
            Choice("stem.kernel", definition.stem_kernels),
        ]
        for stage in definition.stages:
            choices += [Choice(f"{stage.name}.width", stage.widths), Choice(f"{stage.name}.depth", stage.depths)]
            choices += [Choice(f"{stage.name}.{name}", values) for name, values in stage.extra]
        return tuple(choices)

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, stages, head. Where a stage's first block differs from the rest it has a slot of its own."""
        slots = [
            Slot("stem.conv", ("input.side", "stem.width")),
            Slot("stem", ("input.side", "stem.width", "stem.kernel"), repeats="stem.depth"),
        ]
        previous = "stem"
        for stage in self.definition.stages:
            name = stage.name
            extra = tuple(f"{name}.{choice}" for choice, _ in stage.extra)
            entry, size = (f"{previous}.width", f"{name}.width"), ("input.side", f"{name}.width", *extra)
            if stage.is_transformer:
                slots.append(Slot(f"{name}.entry", ("input.side", *entry)))
                slots.append(Slot(name, size, repeats=f"{name}.depth"))
            else:
                slots.append(Slot(f"{name}.0", ("input.side", *entry, *extra)))
                slots.append(Slot(name, size, repeats=f"{name}.depth", start=1))
            previous = name
        slots.append(Slot("head", ("input.side", f"{previous}.width")))
        return tuple(slots)

    def block(self, slot: str, values: Mapping[str, int]) -> ElasticBlock:
        """The block in ``slot``; ``values`` holds at least the slot's choices."""
        definition, image = self.definition, values["input.side"]
        stem_side = -(-image // definition.stem_stride)
        if slot == "stem.conv":
            return FirstConv(image, values["stem.width"], definition.stem_stride)
        if slot == "stem":
            return StemBlock(stem_side, values["stem.width"], values["stem.kernel"])
        if slot == "head":
            last = definition.stages[-1].name
            return Head(
                side=self.stage_side(last, image),
                width=values[f"{last}.width"],
                expansion=definition.head_expansion,
                features=definition.head_features,
                classes=self.classes,
            )
        return self._stage_block(slot, values, image)

    def _stage_block(self, slot: str, values: Mapping[str, int], image: int) -> ElasticBlock:
        name, _, part = slot.partition(".")
        position = next(i for i, stage in enumerate(self.definition.stages) if stage.name == name)
        stage = self.definition.stages[position]
        previous = self.definition.stages[position - 1].name if position else "stem"
        is_first = part in ("entry", "0")
        width, side = values[f"{name}.width"], self.stage_side(name, image)
        if stage.is_transformer and not is_first:
            return TransformerLayer(side, width, values[f"{name}.v_scale"], values[f"{name}.mlp_ratio"], HEAD_WIDTH)
        return ConvBlock(
            side=self.stage_side(previous, image) if is_first else side,
            in_width=values[f"{previous}.width"] if is_first else width,
            width=width,
            expansion=ENTRY_EXPANSION if stage.is_transformer else values[f"{name}.expansion"],
            kernel=ENTRY_KERNEL if stage.is_transformer else values[f"{name}.kernel"],
            stride=stage.stride if is_first else 1,
            squeeze_excite=True if stage.is_transformer else stage.squeeze_excite,
        )

    def stage_side(self, stage: str, image_side: int) -> int:
        """Side of the feature map behind ``stage`` (or behind ``stem``) for images of ``image_side`` pixels."""
        side = -(-image_side // self.definition.stem_stride)
        if stage == "stem":
            return side
        for candidate in self.definition.stages:
            side = -(-side // candidate.stride)
            if candidate.name == stage:
                return side
        raise KeyError(f"space `{self.name}` has no stage `{stage}`")

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(3, side, side)`` of the image that the network computes on."""
        return (3, values["input.side"], values["input.side"])

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """Raise each stage's width to at least the one before it."""
        repaired = genotypes.copy()
        floor = self.values(repaired, "stem.width")
        for stage in self.definition.stages:
            column = self.columns[f"{stage.name}.width"]
            lowest = np.searchsorted(np.array(stage.widths), floor)
            repaired[:, column] = np.maximum(repaired[:, column], np.minimum(lowest, len(stage.widths) - 1))
            floor = np.array(stage.widths)[repaired[:, column]]
        return np.asarray(repaired, dtype=np.int8)

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Draw ``count`` genotypes ``[count, c]``: every choice uniformly, widths from the values not below the last.

        This is the reference's distribution (a width is redrawn until it is not below the stage before); it is not
        uniform over the valid architectures, since wide early stages are as likely as narrow ones.
        """
        drawn = generator.integers(0, self.cardinalities, size=(count, len(self.choices)))
        genotypes = drawn.astype(np.int8)
        floor = self.values(genotypes, "stem.width")
        for stage in self.definition.stages:
            widths, column = np.array(stage.widths), self.columns[f"{stage.name}.width"]
            lowest = np.searchsorted(widths, floor)
            genotypes[:, column] = generator.integers(lowest, len(widths))
            floor = widths[genotypes[:, column]]
        return np.asarray(genotypes, dtype=np.int8)

    @cached_property
    def named(self) -> Mapping[str, Architecture]:
        """The published networks."""
        return {name: self.from_values(values) for name, values in self.definition.named.items()}


def _published(
    side: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    expansions: tuple[int, int],
    kernels: tuple[int, int, int],
    mlp_ratios: tuple[int, ...],
    v_scales: tuple[int, ...] = (2, 2, 2, 2),
) -> dict[str, int]:
    parts = ("stem", "C1", "C2", "T1", "T2", "T3", "T4")
    values = {"input.side": side}
    values |= {f"{part}.width": width for part, width in zip(parts, widths, strict=True)}
    values |= {f"{part}.depth": depth for part, depth in zip(parts, depths, strict=True)}
    values |= {f"{part}.kernel": kernel for part, kernel in zip(parts[:3], kernels, strict=True)}
    values |= {f"{part}.expansion": expansion for part, expansion in zip(parts[1:3], expansions, strict=True)}
    values |= {f"{part}.mlp_ratio": ratio for part, ratio in zip(parts[3:], mlp_ratios, strict=True)}
    values |= {f"{part}.v_scale": scale for part, scale in zip(parts[3:], v_scales, strict=True)}
    return values


PUBLISHED_MODELS: Mapping[str, Mapping[str, int]] = {
    "T1": _published(128, (16, 24, 32, 64, 96, 176, 272), (1, 2, 3, 1, 1, 1, 1), (3, 3), (3, 3, 3), (2, 2, 3, 4)),
    "T2": _published(160, (16, 24, 40, 48, 96, 176, 256), (1, 2, 3, 1, 1, 2, 2), (3, 3), (3, 3, 3), (3, 4, 3, 2)),
    "S1": _published(192, (16, 24, 40, 64, 96, 192, 272), (1, 3, 3, 2, 2, 2, 2), (3, 3), (3, 3, 3), (2, 2, 3, 4)),
    "S2": _published(224, (16, 24, 48, 64, 96, 192, 256), (1, 3, 3, 2, 2, 2, 2), (3, 3), (3, 3, 3), (2, 2, 2, 4)),
    "M": _published(224, (16, 32, 48, 64, 96, 192, 288), (1, 3, 5, 2, 2, 2, 2), (3, 3), (5, 3, 3), (2, 4, 4, 5)),
    "L1": _published(256, (16, 24, 40, 64, 96, 192, 320), (1, 3, 3, 2, 2, 2, 2), (3, 6), (5, 5, 5), (4, 3, 4, 4)),
    "L1.5": _published(256, (16, 24, 48, 64, 96, 256, 320), (2, 4, 4, 2, 2, 2, 2), (3, 4), (3, 3, 5), (4, 5, 3, 5)),
    "L2": _published(
        256, (16, 24, 40, 80, 128, 256, 304), (1, 3, 4, 2, 2, 2, 2), (6, 6), (3, 3, 3), (3, 2, 3, 5), (2, 2, 2, 3)
    ),
    "L3": _published(256, (16, 32, 48, 80, 128, 256, 320), (1, 3, 4, 2, 2, 2, 2), (5, 5), (5, 3, 5), (4, 4, 3, 5)),
}

ELASTIC = ElasticDefinition(
    name="elastic",
    description="ElasticViT: mobile convolution stages, then transformer stages, 128 to 256 pixels",
    image_side=224,
    sides=(128, 160, 176, 192, 224, 256),
    stem_widths=(16, 24),
    stem_depths=(1, 2),
    stem_kernels=(3, 5),
    stem_stride=2,
    stages=(
        conv_stage("C1", 2, tuple(range(2, 6)), tuple(range(16, 33, 8)), (3, 4, 5, 6), (3, 5), False),
        conv_stage("C2", 2, tuple(range(2, 7)), tuple(range(16, 49, 8)), (3, 4, 5, 6), (3, 5), True),
        transformer_stage("T1", 2, tuple(range(1, 6)), tuple(range(48, 97, 16)), (2, 3, 4, 5), (2, 3, 4)),
        transformer_stage("T2", 1, tuple(range(1, 7)), tuple(range(80, 161, 16)), (2, 3, 4, 5), (2, 3, 4)),
        transformer_stage("T3", 2, tuple(range(1, 7)), tuple(range(144, 289, 16)), (2, 3, 4, 5), (2, 3, 4)),
        transformer_stage("T4", 2, tuple(range(1, 7)), tuple(range(160, 321, 16)), (2, 3, 4, 5), (2, 3, 4)),
    ),
    head_expansion=6,
    head_features=1984,
    classes=1000,
    named=PUBLISHED_MODELS,
)

ELASTIC_MINI = ElasticDefinition(
    name="elastic-mini",
    description="the ElasticViT family for 32-pixel images, small enough to train on two cores",
    image_side=32,
    sides=(16, 24, 32),
    stem_widths=(8, 16),
    stem_depths=(1, 2),
    stem_kernels=(3, 5),
    stem_stride=2,
    stages=(
        conv_stage("C1", 2, (1, 2), (16, 24, 32), (2, 3, 4), (3, 5), True),
        transformer_stage("T1", 1, (1, 2), (32, 48), (1, 2, 3), (1, 2)),
        transformer_stage("T2", 2, (1, 2, 3), (64, 80, 96), (1, 2, 3), (1, 2)),
    ),
    head_expansion=2,
    head_features=128,
    classes=10,
    named={},
)
