"""Named augmentations, as timm.data implements them, that depend on nothing but numbers.

Sources: ``elasticvit``: Tang et al., "ElasticViT", ICCV 2023, arXiv 2303.09730. ``resnas``: Liao, Karaman and Sze,
"Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642. ``deit``: Touvron et al., "Training
data-efficient image transformers & distillation through attention", ICML 2021, arXiv 2012.12877. Mixing: Zhang et al.,
"mixup", ICLR 2018, arXiv 1710.09412; Yun et al., "CutMix", ICCV 2019, arXiv 1905.04899.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.errors import DataError

Transform = Callable[[Any], Tensor]
"""A PIL image in, its pixels ``[C, H, W]`` out."""
Colours = tuple[float, float, float]

SMALL_SIDE = 128
CROP_SHARE = 224 / 256
"""Share of the resized image's side that the middle crop of an evaluation keeps."""
_ONE_BIT = 9.99
"""The magnitude, of 10, up to which posterisation leaves a bit of every colour."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to training images.

    Every one of them begins with a random crop, resized bicubically, and mirroring where the source allows it.

    Attributes:
        name: Name of the augmentation.
        operations: RandAugment's, in timm's notation.
        erasing: Probability that a rectangle is erased.
        erased: What fills it: the mean colour, or noise.
        mixup: The Beta distribution's parameter of blending two images, see `mix_images`; 0 for none.
        cutmix: The Beta distribution's parameter of pasting a part of one image into another; 0 for none.
    """

    name: str
    operations: str
    erasing: float
    erased: Literal["const", "pixel"]
    mixup: float = 0.0
    cutmix: float = 0.0


LIGHT = Augmentation("light", "rand-n1-m1-mstd0.5-inc1", erasing=0.01, erased="const")
ELASTICVIT = Augmentation(
    "elasticvit", "rand-n1-m1-mstd0.5-inc1", erasing=0.01, erased="pixel", mixup=0.01, cutmix=0.01
)
"""As published; what fills an erased rectangle is not, so it is timm's usual noise."""
RESNAS = Augmentation("resnas", "rand-m9-mstd0.5-inc1", erasing=0.25, erased="pixel")
"""As published; images are mixed by token mixing instead, see `supernets.training.token_mixing`."""
DEIT = Augmentation("deit", "rand-m9-mstd0.5-inc1", erasing=0.25, erased="pixel", mixup=0.8, cutmix=1.0)
AUGMENTATIONS = {augmentation.name: augmentation for augmentation in (LIGHT, ELASTICVIT, RESNAS, DEIT)}


def get_augmentation(name: str) -> Augmentation:
    """The augmentation of this name.

    Raises:
        DataError: There is none.
    """
    if name in AUGMENTATIONS:
        return AUGMENTATIONS[name]
    close = difflib.get_close_matches(name, AUGMENTATIONS, n=1)
    raise DataError(
        f"augmentation `{name}`: not known, expected one of {', '.join(f'`{known}`' for known in AUGMENTATIONS)}",
        hint=f"did you mean `{close[0]}`?" if close else "",
    )


def training_transform(
    augmentation: Augmentation, image_side: int, mean: Colours, std: Colours, hflip: float
) -> Transform:
    """The transform of training images to normalised float32; it draws from the global generators, see `seeded`.

    An image is mirrored, left and right exchanged, with probability ``hflip``.

    Under 128 pixels a crop keeps at least 35 % of the image instead of 8 %: a twelfth of a small image shows nothing
    that could be recognised. Posterisation leaves one bit at least: at the largest magnitude timm asks Pillow for none,
    a black image, which Pillow refuses from release 13 on.
    """
    from timm.data.transforms_factory import create_transform

    transform = create_transform(
        image_side,
        is_training=True,
        scale=(0.35 if image_side < SMALL_SIDE else 0.08, 1.0),
        hflip=hflip,
        auto_augment=augmentation.operations,
        interpolation="bicubic",
        re_prob=augmentation.erasing,
        re_mode=augmentation.erased,
        mean=mean,
        std=std,
    )
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name == "PosterizeIncreasing":
                operation.magnitude_max = _ONE_BIT
    return transform  # type: ignore[no-any-return]


def plain_transform(image_side: int) -> Transform:
    """The transform of images that are judged: resized bicubically to 256/224 of the side, middle crop, uint8."""
    from timm.data.transforms_factory import create_transform

    return create_transform(  # type: ignore[no-any-return]
        image_side, is_training=False, interpolation="bicubic", crop_pct=CROP_SHARE, normalize=False
    )


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed every generator that transforms draw from, and put them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    words = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def mix_images(
    images_BCHW: Tensor,
    labels_B: Tensor,
    classes: int,
    augmentation: Augmentation,
    smoothing: float,
    generator: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Blend every image with another one of the batch, or paste a rectangle of that one into it.

    One draw per batch decides which (with equal chances where the augmentation has both), how much and where. The
    partner stands half a batch away, where timm takes the batch in reverse: batches are in random order, so it makes no
    difference, and processes that each hold every w-th image of an even share find the same partners as one process
    that holds all.

    Args:
        images_BCHW: Left as they are.
        labels_B: Class of each image, or whether it has each label ``[B, K]``.
        classes: Number of classes.
        augmentation: Augmentation whose ``mixup`` and ``cutmix`` are used.
        smoothing: Share of each label that is spread over all classes.
        generator: Equal ones on all processes of a training.

    Returns:
        The images, and their soft targets ``[B, K]``.
    """
    if labels_B.ndim == 2:
        targets_BK = labels_B * (1 - smoothing) + smoothing / 2
    else:
        targets_BK = F.one_hot(labels_B, classes) * (1 - smoothing) + smoothing / classes
    alphas = {"mixup": augmentation.mixup, "cutmix": augmentation.cutmix}
    kinds = [kind for kind, alpha in alphas.items() if alpha > 0]
    if not kinds:
        return images_BCHW, targets_BK
    kind = kinds[int(generator.integers(len(kinds)))]
    alpha = alphas[kind]
    kept = float(generator.beta(alpha, alpha))
    half = len(images_BCHW) // 2
    partners_BCHW = images_BCHW.roll(half, dims=0)
    if kind == "mixup":
        mixed_BCHW = partners_BCHW.lerp(images_BCHW, kept)
    else:
        rows, columns = _rectangle(images_BCHW.shape[-2:], 1 - kept, generator)
        mixed_BCHW = images_BCHW.clone()
        mixed_BCHW[:, :, rows, columns] = partners_BCHW[:, :, rows, columns]
        pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
        kept = 1 - pasted / (images_BCHW.shape[-2] * images_BCHW.shape[-1])
    return mixed_BCHW, targets_BK.roll(half, dims=0).lerp(targets_BK, kept)


def _rectangle(shape: tuple[int, ...], share: float, generator: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of this share of an image, about a random point, cut off at the edges."""
    ranges = []
    for side in shape:
        middle, length = int(generator.integers(side)), int(side * share**0.5)
        ranges.append(slice(max(0, middle - length // 2), min(side, middle + length // 2)))
    return ranges[0], ranges[1]
