"""What tells the spaces of the `mixers` family apart: candidate values and named networks.

Sources of the named networks: PVTv2 (arXiv 2106.13797), Swin (2103.14030), LITv2 (2205.13213), L2ViT (2501.16182).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from search_spaces.mixers_blocks import MIXERS

FIRST, LATER, LAST = MIXERS[:9], MIXERS[:10], ("none", "pool", "conv", "window", "linear", "full")
"""Mixers of large maps, of small ones, and of the smallest, where sra, pooled and hilo are full and shift is window."""
SUBSTITUTES: Mapping[str, tuple[str, ...]] = {
    "shift": ("window",),
    "sra": ("full",),
    "pooled": ("full",),
    "hilo": ("full",),
    "full": ("sra",),
}
"""What stands for a mixer in a stage that does not have it."""


@dataclass(frozen=True)
class Stage:
    """A run of layers of one width.

    Attributes:
        mixers: Kinds of token mixers, of `search_spaces.mixers_blocks.MIXERS`.
        ratios: Hidden channels of the feed-forward network per channel.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    mixers: tuple[str, ...]
    ratios: tuple[int, ...]


@dataclass(frozen=True)
class Network:
    """A named network: for each stage its width, depth, two mixers in turn and ratio.

    Attributes:
        stem: Kind of the stem.
        entry: Kind of the entries.
    """

    stem: str
    entry: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    mixers: tuple[tuple[str, str], ...]
    ratios: tuple[int, ...]
    position: str
    ffn: str
    head_width: int


@dataclass(frozen=True)
class MixersDefinition:
    """What tells one space of the family from another.

    Attributes:
        image_side: Side in pixels at which images are loaded; named networks compute on it.
        sides: Candidates for the side that a network computes on.
        stem_stride: Side of the first patches in pixels.
        kernel: Side of the large depthwise windows.
        least: Smallest denominator of linear attention.
        classes: Number of classes unless asked otherwise.
        homogeneous: Sizes of the networks that have one kind of mixer everywhere; their own mixers do not count.
    """

    name: str
    description: str
    image_side: int
    sides: tuple[int, ...]
    stem_stride: int
    stems: tuple[str, ...]
    head_widths: tuple[int, ...]
    stages: tuple[Stage, ...]
    ffns: tuple[str, ...]
    entries: tuple[str, ...]
    kernel: int
    least: int
    classes: int
    homogeneous: Network
    named: Mapping[str, Network] = field(default_factory=dict)


def _alike(*mixers: str) -> tuple[tuple[str, str], ...]:
    """The same mixer in all layers of a stage."""
    return tuple((mixer, mixer) for mixer in mixers)


def _pvt(widths: tuple[int, ...], depths: tuple[int, ...], head_width: int) -> Network:
    mixers = _alike("sra", "sra", "sra", "full")
    return Network("overlap", "overlap", widths, depths, mixers, (8, 8, 4, 4), "none", "dw", head_width)


_TINY = ((96, 192, 384, 768), (2, 2, 6, 2))
_B1 = (64, 128, 320, 512)
_SWIN = (("window", "shift"),) * 3 + (("window", "window"),)
MIXERS_SPACE = MixersDefinition(
    name="mixers",
    description="pyramids whose token mixers, feed-forward networks and reductions are chosen, 160 to 256 pixels",
    image_side=224,
    sides=(160, 192, 224, 256),
    stem_stride=4,
    stems=("patch", "overlap", "conv"),
    head_widths=(32, 64),
    stages=(
        Stage((32, 64, 96), (1, 2, 3), FIRST, (2, 4, 8)),
        Stage((64, 128, 192), (1, 2, 3, 4), FIRST, (2, 4, 8)),
        Stage((160, 192, 256, 320, 384), (2, 3, 4, 5, 6, 7, 8), LATER, (2, 3, 4)),
        Stage((256, 384, 512, 768), (1, 2, 3), LAST, (2, 3, 4)),
    ),
    ffns=("plain", "dw", "repa75", "repa50"),
    entries=("merge", "patch", "batch", "overlap", "residual"),
    kernel=7,
    least=100,
    classes=1000,
    homogeneous=_pvt(_B1, (2, 2, 2, 2), 32),
    named={
        "pvt-v2-b0": _pvt((32, 64, 160, 256), (2, 2, 2, 2), 32),
        "pvt-v2-b1": _pvt(_B1, (2, 2, 2, 2), 64),
        "pvt-v2-b2": _pvt(_B1, (3, 4, 6, 3), 64),
        "swin-t": Network("patch", "merge", *_TINY, _SWIN, (4, 4, 4, 4), "none", "plain", 32),
        "lit-v2-s-plain": Network(
            "patch", "batch", *_TINY, _alike("none", "none", "hilo", "full"), (4, 4, 4, 4), "none", "dw", 32
        ),
        "l2-vit-t": Network("conv", "patch", *_TINY, (("window", "linear"),) * 4, (4, 4, 4, 4), "cpe", "plain", 32),
    },
)
MIXERS_MINI = MixersDefinition(
    name="mixers-mini",
    description="the same for 32-pixel images, small enough to train on two cores",
    image_side=32,
    sides=(16, 24, 32),
    stem_stride=2,
    stems=("patch", "overlap"),
    head_widths=(8, 16),
    stages=(
        Stage((16, 24, 32), (1, 2), LATER, (2, 3)),
        Stage((32, 48, 64), (1, 2, 3), LATER, (2, 3)),
        Stage((64, 80, 96), (1, 2), LAST, (2, 3)),
    ),
    ffns=("plain", "dw", "repa75"),
    entries=("merge", "patch", "overlap"),
    kernel=5,
    least=1,
    classes=10,
    homogeneous=Network(
        "overlap", "overlap", (24, 48, 80), (1, 2, 2), _alike("none", "none", "none"), (2, 2, 2), "none", "dw", 8
    ),
)
MIXERS_MINI_ALL = replace(
    MIXERS_MINI,
    name="mixers-mini-all",
    description="the same with two kinds more: attention masked by Gaussians, and Hyena's convolutions over the map",
    stages=tuple(replace(stage, mixers=(*stage.mixers, "gmm", "hyena")) for stage in MIXERS_MINI.stages),
)
