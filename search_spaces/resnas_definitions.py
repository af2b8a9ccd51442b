"""What tells the spaces of the ViT-ResNAS family apart: candidate values and published networks.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642,
and its reference implementation. `RESNAS_MINI` is our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STEM_STRIDE = 2


@dataclass(frozen=True)
class Stage:
    """A run of transformer layers of one width.

    Attributes:
        widths: Candidates for the embedding width.
        head_width: Channels of a head.
        heads: Candidates for the number of heads of a layer.
        hidden: Candidates for the hidden channels of a layer's feed-forward network.
        may_miss: Whether each layer may be missing.
    """

    widths: tuple[int, ...]
    head_width: int
    heads: tuple[int, ...]
    hidden: tuple[int, ...]
    may_miss: tuple[bool, ...]


@dataclass(frozen=True)
class Published:
    """A published network: for each stage its width, and ``(heads, hidden)`` of the layers that are there."""

    widths: tuple[int, ...]
    layers: tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True)
class ResnasDefinition:
    """What tells one space of the family from another.

    Attributes:
        image_side: Side of the image in pixels.
        stem_width: Channels of the convolution stem; 0 for none.
        patch: Side of a patch in entries of the stem's map, which has half the image's side, or in pixels without one.
        classes: Number of classes unless asked otherwise.
        named: Published networks by name.
        class_tokens: 1, or 2 for a distillation token beside the class token; its classifier's logits are averaged
            with the class token's.
        drop_path: Rate of stochastic depth of the last layer, see `TransformerLayer`; it grows linearly from 0 at the
            first.
        patch_classifier: Whether training also classifies patches, see `Head`.
    """

    name: str
    description: str
    image_side: int
    stem_width: int
    patch: int
    stages: tuple[Stage, ...]
    classes: int
    named: Mapping[str, Published]
    class_tokens: int = 1
    drop_path: float = 0.0
    patch_classifier: bool = False

    @property
    def patch_pixels(self) -> int:
        """Side of a patch of the first stage in pixels."""
        return self.patch * (STEM_STRIDE if self.stem_width else 1)


SIX = (False, True, False, True, False, True)
SEVEN = (*SIX, False)
TINY_WIDTHS = ((160, 176, 192, 224, 256), (320, 352, 384, 448, 512), (640, 704, 768, 896, 1024))
TINY_HIDDEN = tuple(tuple(scale * channels for channels in (384, 448, 512, 576, 640, 704, 768)) for scale in (1, 2, 4))

RESNAS_TINY = ResnasDefinition(
    name="resnas-tiny",
    description="ViT-ResNAS, the space of Tiny: three stages of transformers behind a convolution stem, 224 pixels",
    image_side=224,
    stem_width=24,
    patch=7,
    stages=(
        Stage(TINY_WIDTHS[0], 32, (3, 4, 5, 6), TINY_HIDDEN[0], SIX),
        Stage(TINY_WIDTHS[1], 48, (6, 8, 10, 12), TINY_HIDDEN[1], SIX),
        Stage(TINY_WIDTHS[2], 64, (6, 8, 10, 12), TINY_HIDDEN[2], SIX),
    ),
    classes=1000,
    named={
        "tiny": Published(
            (176, 352, 704),
            (
                ((3, 704), (3, 576), (3, 640), (4, 576), (4, 704)),
                ((10, 1408), (8, 1408), (8, 1280), (8, 1408), (10, 1280), (10, 1024)),
                ((10, 2560), (10, 1792), (10, 2816), (8, 2816), (8, 2560)),
            ),
        )
    },
)

RESNAS_SMALL = ResnasDefinition(
    name="resnas-small",
    description="ViT-ResNAS, the space of Small and Medium: three stages behind a convolution stem, 224 pixels",
    image_side=224,
    stem_width=24,
    patch=7,
    stages=(
        Stage((200, 220, 240, 280, 320), 32, (5, 6, 7, 8), (480, 560, 640, 720, 800, 880, 960), SEVEN),
        Stage((400, 440, 480, 560, 640), 48, (10, 12, 14, 16), (960, 1120, 1280, 1440, 1600, 1760, 1920), SEVEN),
        Stage((800, 880, 960, 1120, 1280), 64, (10, 12, 14, 16), (1920, 2240, 2560, 2880, 3200, 3520, 3840), SEVEN),
    ),
    classes=1000,
    named={
        "small": Published(
            (220, 440, 880),
            (
                ((5, 880), (5, 880), (7, 800), (5, 720), (5, 720), (5, 720)),
                ((10, 1760), (10, 1440), (10, 1920), (10, 1600), (12, 1600), (12, 1440)),
                ((16, 3200), (12, 3200), (16, 2880), (12, 2240), (14, 2560)),
            ),
        ),
        "medium": Published(
            (240, 640, 880),
            (
                ((7, 960), (6, 960), (7, 800), (8, 960), (7, 880), (8, 880), (6, 800)),
                ((10, 1120), (14, 1760), (14, 1920), (16, 1760), (14, 1440), (16, 1760), (16, 1920)),
                ((16, 3200), (10, 3840), (16, 3840), (12, 3200), (16, 3520), (14, 3520)),
            ),
        ),
    },
)

RESNAS = ResnasDefinition(
    name="resnas",
    description="the hand-designed ViT-Res-Tiny, with heads of 64 channels everywhere, and what is smaller, 224 pixels",
    image_side=224,
    stem_width=24,
    patch=7,
    stages=(
        Stage(TINY_WIDTHS[0][:3], 64, (2, 3), TINY_HIDDEN[0], SIX[:4]),
        Stage(TINY_WIDTHS[1][:3], 64, (4, 6), TINY_HIDDEN[1], SIX[:4]),
        Stage(TINY_WIDTHS[2][:3], 64, (6, 8, 10, 12), TINY_HIDDEN[2], SIX[:4]),
    ),
    classes=1000,
    named={"res-tiny": Published((192, 384, 768), (((3, 768),) * 4, ((6, 1536),) * 4, ((12, 3072),) * 4))},
)
"""The space itself is our own; its largest network is published, and fits in none of the published spaces, whose heads
have 32 and 48 channels in the first two stages. Candidates are those of `RESNAS_TINY` up to that network's."""

RESNAS_MINI = ResnasDefinition(
    name="resnas-mini",
    description="the ViT-ResNAS family for 32-pixel images, small enough to train on two cores",
    image_side=32,
    stem_width=8,
    patch=2,
    stages=(
        Stage((24, 32, 40), 8, (2, 3, 4, 5), (64, 96, 128, 160), SIX[:4]),
        Stage((48, 64, 80), 16, (2, 3, 4, 5), (128, 192, 256, 320), SIX[:4]),
        Stage((96, 128, 160), 32, (2, 3, 4, 5), (256, 384, 512, 640), SIX[:4]),
    ),
    classes=10,
    named={"res-mini": Published((32, 64, 128), (((4, 128),) * 3, ((4, 256),) * 3, ((4, 512),) * 3))},
)
"""Patches of 4 pixels give 8 x 8 tokens in the first stage, 4 x 4 in the second and 2 x 2 in the third (published
spaces: 16, 8 and 4), so that every stage still has something to attend to. As in the published spaces, widths double
from stage to stage and all stages have about as many heads.

The hand-designed `res-mini` follows ViT-Res-Tiny: heads together have as many channels as the embedding, and hidden
layers four times as many. It lies inside the space in every choice, with three of two to four layers in each stage, so
that a search bounded by its multiply-accumulates has networks to choose from on both sides of it.
"""
