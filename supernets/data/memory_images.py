"""Grey images that are held in memory and moved a little when they are trained on.

Legend of tensor suffixes: B batch, H and W rows and columns, N images of the source, K numbers drawn per image, G the
two coordinates of a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.data.augmentation import LIGHT, Transform, seeded, training_transform
from supernets.data.image_data import Batch, Division, ImageData, IntArray, LoadOptions


@dataclass(frozen=True)
class AffineRanges:
    """How far an image is moved: every amount is drawn uniformly up to these, in either direction.

    Attributes:
        degrees: Rotation.
        shift: Shift, as a share of the image's side.
        scale: Change of size, as a share of it.
        shear: Columns per row.
    """

    degrees: float = 8.0
    shift: float = 0.06
    scale: float = 0.08
    shear: float = 0.08


class MemoryData(ImageData):
    """Square grey images in memory, as three equal colours.

    Args:
        source: The text that names the source.
        class_names: Names of the classes in label order.
        division: Which image is in which part.
        images_N1HW: The images, uint8.
        labels_N: Labels of the images, int64.
        options: Side of the images, to which stored ones of another side are enlarged when they are needed; and their
            augmentation: with ``light`` they are moved within ``ranges``. None is mirrored unless the options say so.
        ranges: How far training images are moved.
    """

    def __init__(
        self,
        source: str,
        class_names: tuple[str, ...],
        division: Division,
        images_N1HW: Tensor,
        labels_N: Tensor,
        options: LoadOptions,
        ranges: AffineRanges,
    ) -> None:
        self._images_N1HW = images_N1HW
        self._labels_N = labels_N
        self._ranges = ranges
        self._hflip = options.hflip or 0.0
        shades = images_N1HW[torch.from_numpy(division.parts["train"])].float() / 255
        mean, std = float(shades.mean()), float(shades.std())
        super().__init__(source, options.image_side, class_names, division, (mean, mean, mean), (std, std, std))
        self._transform: Transform | None = None
        if options.augmentation.name != LIGHT.name:
            self._transform = training_transform(
                options.augmentation, self.image_side, self.mean, self.std, self._hflip
            )

    @property
    def labels(self) -> IntArray:
        """The class of every image of the source."""
        return self._labels_N.numpy()

    def _augmented(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]:
        if self._transform is None:
            yield from self._moved(batches, seed, epoch)
            return
        for indices in batches:
            images = [self._transformed(self._transform, index, seed, epoch) for index in indices.tolist()]
            yield torch.stack(images), self._labels_N[torch.from_numpy(indices)]

    def _transformed(self, transform: Transform, index: int, seed: int, epoch: int) -> Tensor:
        from PIL import Image

        with seeded(seed, epoch, index):
            return transform(Image.fromarray(self._images_N1HW[index, 0].numpy()).convert("RGB"))

    def _moved(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]:
        # One row of numbers per image of the source: an image's augmentation depends on (seed, epoch, image) alone.
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, 1])))
        draws = generator.uniform(-1, 1, size=(len(self._labels_N), 6)).astype(np.float32)
        is_mirrored_N = torch.from_numpy(generator.random(len(self._labels_N)) < self._hflip)
        for indices in batches:
            rows = torch.from_numpy(indices)
            grid_BHWG = _moved_grid(torch.from_numpy(draws[indices]), self._ranges, self.image_side)
            shades_B1HW = self._images_N1HW[rows].float()
            shades_B1HW = torch.where(is_mirrored_N[rows][:, None, None, None], shades_B1HW.flip(-1), shades_B1HW)
            moved = F.grid_sample(shades_B1HW, grid_BHWG, mode="bilinear", padding_mode="zeros", align_corners=False)
            yield self._normalised(moved), self._labels_N[rows]

    def _plain(self, batches: Sequence[IntArray]) -> Iterator[Batch]:
        for indices in batches:
            rows = torch.from_numpy(indices)
            yield self._normalised(self._enlarged(self._images_N1HW[rows].float())), self._labels_N[rows]

    def _enlarged(self, shades_B1HW: Tensor) -> Tensor:
        side = self.image_side
        if shades_B1HW.shape[-1] == side:
            return shades_B1HW
        return F.interpolate(shades_B1HW, (side, side), mode="bilinear", align_corners=False)

    def _normalised(self, shades_B1HW: Tensor) -> Tensor:
        return ((shades_B1HW / 255 - self.mean[0]) / self.std[0]).repeat(1, 3, 1, 1)


def _moved_grid(draws_BK: Tensor, ranges: AffineRanges, side: int) -> Tensor:
    """Where each pixel of the moved images comes from, ``[B, H, W, 2]`` in [-1, 1] (x, y)."""
    angle = draws_BK[:, 0] * float(np.deg2rad(ranges.degrees))
    zoom_x, zoom_y = 1 + ranges.scale * draws_BK[:, 1], 1 + ranges.scale * draws_BK[:, 2]
    shear = ranges.shear * draws_BK[:, 3]
    shift_B2 = 2 * ranges.shift * draws_BK[:, 4:6]
    return affine_grid(angle, zoom_x, zoom_y, shear, shift_B2, side)


def affine_grid(
    angle_B: Tensor, zoom_x_B: Tensor, zoom_y_B: Tensor, shear_B: Tensor, shift_B2: Tensor, side: int
) -> Tensor:
    """Where each pixel of rotated, sheared, zoomed and shifted images comes from.

    Args:
        angle_B: Rotation in radians.
        zoom_x_B: Columns of the source per column.
        zoom_y_B: Rows of the source per row.
        shear_B: Columns per row.
        shift_B2: Right and down, in half sides.
        side: Side of the images that are sampled.

    Returns:
        ``[B, side, side, 2]``, (x, y) in [-1, 1] of the source.
    """
    cosine, sine = angle_B.cos(), angle_B.sin()
    row_x = torch.stack([cosine * zoom_x_B, (shear_B * cosine - sine) * zoom_y_B, shift_B2[:, 0]], dim=1)
    row_y = torch.stack([sine * zoom_x_B, (shear_B * sine + cosine) * zoom_y_B, shift_B2[:, 1]], dim=1)
    affine_B23 = torch.stack([row_x, row_y], dim=1)
    return F.affine_grid(affine_B23, [len(angle_B), 1, side, side], align_corners=False)
