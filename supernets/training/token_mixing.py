"""Token mixing: images mixed by regions or as wholes, with a soft target for every patch of the last stage.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642, with the
constants of its reference implementation; region mixing follows Yun et al., "CutMix", ICCV 2019, arXiv 1905.04899, and
image mixing Zhang et al., "mixup", ICLR 2018, arXiv 1710.09412.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns of the image, K classes, P patches of the last
stage in reading order, R and S their rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.errors import SupernetError

MIXUP_BETA = 0.8
"""Both parameters of the Beta distribution that the share of an image is drawn from when wholes are mixed."""


@dataclass(frozen=True)
class MixedBatch:
    """Mixed images and what is to be learnt from them.

    Attributes:
        images_BCHW: The images.
        targets_BK: Probabilities of the classes of each image.
        patch_targets_BPK: The same of each patch; None where every patch learns its image's target.
    """

    images_BCHW: Tensor
    targets_BK: Tensor
    patch_targets_BPK: Tensor | None = None


@dataclass(frozen=True)
class Region:
    """A rectangle of patches; one without columns is empty."""

    top: int
    left: int
    height: int
    width: int

    @property
    def patches(self) -> int:
        """The number of patches in it."""
        return self.height * self.width


def mix_tokens(
    images_BCHW: Tensor,
    labels_B: Tensor,
    classes: int,
    patches_per_side: int,
    smoothing: float,
    generator: np.random.Generator,
) -> MixedBatch:
    """Mix the first half of a batch by regions and the rest as wholes, each half within itself.

    In the first half one rectangle of whole patches is replaced by that of another image: a patch learns the label of
    the image that it comes from, the image both labels in proportion to their patches. In the second half images are
    blended with others, and image and patches learn the blended label. Rectangle and share are drawn once per batch.

    Args:
        images_BCHW: Augmented images of one side, a multiple of ``patches_per_side``; left as they are.
        labels_B: Labels of the images.
        classes: Number of classes.
        patches_per_side: Side of the map that the network ends with.
        smoothing: Share of each label that is spread evenly over all classes.
        generator: Source of everything that is drawn.

    Raises:
        SupernetError: The images cannot be cut into so many patches.
    """
    side = images_BCHW.shape[-1]
    if images_BCHW.shape[-2] != side or side % patches_per_side:
        raise SupernetError(
            f"token mixing: images of {images_BCHW.shape[-2]} x {side} pixels cannot be cut into {patches_per_side} x"
            f" {patches_per_side} equal patches",
            hint=f"use square images whose side is a multiple of {patches_per_side}",
        )
    half = len(images_BCHW) // 2
    smooth_BK = _smoothed(labels_B, classes, smoothing)
    regions = _mix_regions(images_BCHW[:half], smooth_BK[:half], patches_per_side, generator)
    wholes = _mix_wholes(images_BCHW[half:], smooth_BK[half:], patches_per_side, generator)
    images, targets, patch_targets = (torch.cat(parts) for parts in zip(regions, wholes, strict=True))
    return MixedBatch(images, targets, patch_targets)


def draw_region(patches_per_side: int, generator: np.random.Generator) -> Region:
    """A rectangle whose share of the patches is uniform, rounded down to what a rectangle can have.

    As in the reference implementation its height is uniform below ``min(side, patches) - 1``, and it never touches the
    last row or column unless it fills them all.
    """
    side = patches_per_side
    patches = int(side**2 * generator.random())
    height = _integer_below(generator, 1, min(side, patches) - 1)
    width = patches // height
    if width > side:
        width, height = side, patches // side
    return Region(
        _integer_below(generator, 0, side - height), _integer_below(generator, 0, side - width), height, width
    )


def _mix_regions(
    images_BCHW: Tensor, smooth_BK: Tensor, side: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    partners = _partners(images_BCHW, generator)
    region = draw_region(side, generator)
    rows = slice(region.top, region.top + region.height)
    columns = slice(region.left, region.left + region.width)
    pixels = images_BCHW.shape[-1] // side
    high, wide = (slice(span.start * pixels, span.stop * pixels) for span in (rows, columns))
    mixed_BCHW = images_BCHW.clone()
    mixed_BCHW[..., high, wide] = images_BCHW[..., high, wide][partners]
    patches_BRSK = smooth_BK[:, None, None].repeat(1, side, side, 1)
    patches_BRSK[:, rows, columns] = smooth_BK[partners, None, None]
    kept = 1 - region.patches / side**2
    return mixed_BCHW, torch.lerp(smooth_BK[partners], smooth_BK, kept), patches_BRSK.flatten(1, 2)


def _mix_wholes(
    images_BCHW: Tensor, smooth_BK: Tensor, side: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    partners = _partners(images_BCHW, generator)
    kept = float(generator.beta(MIXUP_BETA, MIXUP_BETA))
    targets_BK = torch.lerp(smooth_BK[partners], smooth_BK, kept)
    return torch.lerp(images_BCHW[partners], images_BCHW, kept), targets_BK, targets_BK[:, None].repeat(1, side**2, 1)


def _partners(images_BCHW: Tensor, generator: np.random.Generator) -> Tensor:
    return torch.from_numpy(generator.permutation(len(images_BCHW))).to(images_BCHW.device)


def _smoothed(labels_B: Tensor, classes: int, smoothing: float) -> Tensor:
    one_hot_BK = F.one_hot(labels_B, classes).to(torch.float32)
    return one_hot_BK * (1 - smoothing) + smoothing / classes


def _integer_below(generator: np.random.Generator, low: int, high: int) -> int:
    """An integer from ``low`` to below ``high``; ``low`` where there is none."""
    return int(generator.integers(low, high)) if high > low else low
