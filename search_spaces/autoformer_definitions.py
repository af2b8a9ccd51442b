"""What tells the spaces of the AutoFormer family apart: candidate values and published networks.

Sources: Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021, arXiv 2107.00651; Wang et
al., "PreNAS: Preferred One-Shot Learning Towards Efficient Neural Architecture Search", ICML 2023, arXiv 2304.14636;
and their reference implementations. `AUTOFORMER_MINI` is our own.

Feed-forward ratios are given in tenths: a ratio of 35 makes the hidden layer 3.5 times as wide as the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

HEAD_WIDTH = 64
"""Channels of every attention head."""


@dataclass(frozen=True)
class Listed:
    """What the blocks of one width may be, block by block; a network of less depth has the first ones.

    Attributes:
        depths: Candidates for the number of blocks.
        ratios: Candidates for the feed-forward ratio of each block, in tenths.
        heads: Candidates for the number of heads of each block.
    """

    depths: tuple[int, ...]
    ratios: tuple[tuple[int, ...], ...]
    heads: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class AutoformerDefinition:
    """What tells one space of the family from another.

    Attributes:
        image_side: Side of the image in pixels.
        patch: Side of a patch in pixels.
        shared_width: Width of the published supernet; networks as wide as that are not searched.
        widths: Candidates for the embedding width.
        depths: Candidates for the number of blocks.
        heads: Candidates for the number of heads of a block.
        ratios: Candidates for the feed-forward ratio of a block, in tenths.
        classes: Number of classes unless asked otherwise.
        named: Published networks by name.
        lists: What networks of each width may be, where the supernet was trained on no others; empty for anything.
    """

    name: str
    description: str
    image_side: int
    patch: int
    shared_width: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[int, ...]
    classes: int = 1000
    named: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    lists: Mapping[int, Listed] = field(default_factory=dict)


def _candidates(text: str) -> tuple[tuple[int, ...], ...]:
    """Candidates of each block, for example ``40 35/40 40``."""
    return tuple(tuple(map(int, block.split("/"))) for block in text.split())


def _listed(depths: tuple[int, ...], ratios: str, heads: str) -> Listed:
    return Listed(depths, _candidates(ratios), _candidates(heads))


def _network(width: int, ratios: str, heads: str) -> dict[str, int]:
    ratio, head = (tuple(map(int, text.split())) for text in (ratios, heads))
    values = {"width": width, "depth": len(ratio)}
    values |= {f"blocks.{number}.heads": count for number, count in enumerate(head)}
    return values | {f"blocks.{number}.ratio": tenths for number, tenths in enumerate(ratio)}


AUTOFORMER_TINY = AutoformerDefinition(
    name="autoformer-tiny",
    description="AutoFormer, the space of Tiny: plain transformers with relative positions, 224 pixels",
    image_side=224,
    patch=16,
    shared_width=256,
    widths=(192, 216, 240),
    depths=(12, 13, 14),
    heads=(3, 4),
    ratios=(30, 35, 40),
    named={
        "published": _network(192, "35 35 30 35 30 30 40 40 35 40 35 40 35", "3 3 3 3 3 3 3 3 3 3 4 3 3"),
    },
)
"""The ratio of 3.0 is not among the published choices; the published network has it."""

AUTOFORMER_SMALL = AutoformerDefinition(
    name="autoformer-small",
    description="AutoFormer, the space of Small: plain transformers with relative positions, 224 pixels",
    image_side=224,
    patch=16,
    shared_width=448,
    widths=(320, 384, 448),
    depths=(12, 13, 14),
    heads=(5, 6, 7),
    ratios=(30, 35, 40),
    named={
        "published": _network(384, "30 35 30 35 40 40 40 40 40 40 40 35 40", "6 6 5 7 5 5 5 6 6 7 7 6 7"),
    },
)

AUTOFORMER_BASE = AutoformerDefinition(
    name="autoformer-base",
    description="AutoFormer, the space of Base: plain transformers with relative positions, 224 pixels",
    image_side=224,
    patch=16,
    shared_width=640,
    widths=(528, 576, 624),
    depths=(14, 15, 16),
    heads=(8, 9, 10),
    ratios=(30, 35, 40),
    named={
        "published": _network(576, "35 35 40 35 40 35 35 30 40 40 30 40 30 35", "9 9 9 9 9 10 9 9 10 9 10 9 9 10"),
    },
)
"""Eight heads are not among the published choices; checkpoints of the same shape were trained with them."""

AUTOFORMER_MINI = AutoformerDefinition(
    name="autoformer-mini",
    description="the AutoFormer family for 64-pixel images, three blocks, small enough to train on two cores",
    image_side=64,
    patch=16,
    shared_width=256,
    widths=(192, 216, 240),
    depths=(2, 3),
    heads=(3, 4),
    ratios=(30, 35, 40),
    classes=10,
)

PRENAS_TINY = replace(
    AUTOFORMER_TINY,
    name="prenas-tiny",
    description="PreNAS, the networks that its Tiny supernet was trained on: as AutoFormer's, 224 pixels",
    depths=(12, 14),
    named={"published": _network(192, "40 40 40 40 40 35 35 40 40 35 40 40", "4 4 4 4 3 3 3 3 3 4 3 4")},
    lists={
        192: _listed((12,), "40 40 40 40 40 35 35 40 40 35 40 40", "4 4 4 4 3 3 3 3 3 4 3 4"),
        216: _listed((12,), "40 35 40 35 35 35 35 35 35 35 35 35", "4 4 4 4 4 3 3 3 4 4 3 4"),
        240: _listed(
            (12, 14),
            "40 35/40 40 40 35/40 35/40 35/40 40 40 35/40 40 35/40 40 40",
            "3/4 3/4 3/4 3/4 3/4 3/4 3/4 3/4 3/4 3/4 3/4 3/4 3/4 4",
        ),
    },
)

PRENAS_SMALL = replace(
    AUTOFORMER_SMALL,
    name="prenas-small",
    description="PreNAS, the networks that its Small supernet was trained on: as AutoFormer's, 224 pixels",
    depths=(13, 14),
    named={"published": _network(384, "40 40 35 40 35 40 35 35 40 40 30 40 35", "7 7 7 7 5 7 7 5 6 5 5 6 5")},
    lists={
        320: _listed((13,), "40 40 35 40 35 40 40 35 40 40 35 40 40", "7 7 7 7 7 7 7 7 6 7 5 6 5"),
        384: _listed((13,), "40 40 35 40 35 40 35 35 40 40 30 40 35", "7 7 7 7 5 7 7 5 6 5 5 6 5"),
        448: _listed(
            (13, 14),
            "40 40 30/35 40 30/35 35/40 30/40 30/35 40 30/40 30/35 40 30/40 35",
            "7 7 7 7 5/7 7 7 5/7 5/6 5/7 5 6 5 7",
        ),
    },
)

PRENAS_BASE = replace(
    AUTOFORMER_BASE,
    name="prenas-base",
    description="PreNAS, the three networks that its Base supernet was trained on: as AutoFormer's, 224 pixels",
    depths=(14,),
    named={"published": _network(576, "35 40 35 35 35 40 35 35 35 35 40 30 35 40", "9 9 10 9 9 10 9 9 9 9 9 9 10 9")},
    lists={
        528: _listed((14,), "30 30 30 30 30 30 30 30 30 30 30 30 35 30", "9 9 9 9 9 9 9 9 9 9 9 9 9 9"),
        576: _listed((14,), "35 40 35 35 35 40 35 35 35 35 40 30 35 40", "9 9 10 9 9 10 9 9 9 9 9 9 10 9"),
        624: _listed((14,), "40 40 35 40 40 40 40 40 40 40 40 40 40 40", "9 10 10 9 9 10 10 9 10 9 9 9 10 10"),
    },
)
