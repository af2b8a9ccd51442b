"""Pictures without labels: all that lie under a folder, as crops of different sizes.

The crops are those of Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv
2104.14294: two large ones and some small ones of each picture, each with colours of its own.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from supernets.data.decoding import Refusal, read_picture
from supernets.data.image_index import image_extensions, is_nobodys
from supernets.errors import DataError

LARGE_CROPS, SMALL_CROPS = 2, 6
LARGE_SCALE, SMALL_SCALE = (0.32, 1.0), (0.05, 0.32)
"""Shares of a picture's area that crops have."""
SMALL_SHARE = 96 / 224
"""Side of small crops, as a share of that of large ones."""


def find_pictures(top: Path) -> list[Path]:
    """All image files under a folder, however they are laid out, in the order of their names.

    Raises:
        DataError: There is no folder, or no image in it.
    """
    if not top.is_dir():
        raise DataError(f"data `{top}`: found no folder, expected one with pictures")
    found = []
    for folder, inner, files in os.walk(top):
        inner[:] = [name for name in inner if not is_nobodys(name)]
        endings = image_extensions()
        found += [Path(folder, name) for name in files if Path(name).suffix.lower() in endings and not is_nobodys(name)]
    if not found:
        raise DataError(f"data `{top}`: found no image, expected pictures")
    return sorted(found)


class Crops(Dataset[list[Tensor]]):
    """Crops of pictures, the same ones for the same seed and epoch.

    Args:
        pictures: Image files.
        side: Side of large crops in pixels, a multiple of ``patch``.
        patch: Side of a patch in pixels, of which the side of small crops is a multiple too.
        colours: Means and standard deviations that the network expects.
        seed: Seed of the crops.
    """

    def __init__(
        self,
        pictures: Sequence[Path],
        side: int,
        patch: int,
        colours: tuple[Sequence[float], Sequence[float]],
        seed: int,
    ) -> None:
        small = max(patch, round(SMALL_SHARE * side / patch) * patch)
        self._pictures, self._seed, self.epoch = pictures, seed, 0
        self._large = _crop(side, LARGE_SCALE, colours)
        self._small = _crop(small, SMALL_SCALE, colours)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        """The crops ``(C, H, W)`` of one picture, the large ones first; none where it cannot be read."""
        try:
            image = read_picture(self._pictures[index]).image
        except (Refusal, OSError):
            return []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self._seed, self.epoch, index)) % 2**63)
            return [
                *(self._large(image) for _ in range(LARGE_CROPS)),
                *(self._small(image) for _ in range(SMALL_CROPS)),
            ]

    def batches(self, size: int, epoch: int, workers: int) -> Iterator[list[Tensor]]:
        """All pictures once, in an order of the epoch: for each crop a batch ``(B, C, H, W)``.

        Args:
            size: Pictures per batch; what fills none at the end is left out.
            epoch: Number of the epoch, from 0.
            workers: Processes that read pictures; 0 for this one.
        """
        self.epoch = epoch
        order = torch.Generator().manual_seed(self._seed + epoch)
        yield from DataLoader(
            self,
            min(size, len(self)),
            shuffle=True,
            drop_last=True,
            generator=order,
            num_workers=workers,
            collate_fn=_together,
        )


def _together(rows: Sequence[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(crops) for crops in zip(*filter(None, rows), strict=True)]


def _crop(side: int, scale: tuple[float, float], colours: tuple[Sequence[float], Sequence[float]]) -> Any:
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(side, scale, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([transforms.GaussianBlur(9, (0.1, 2.0))], 0.5),
            transforms.ToTensor(),
            transforms.Normalize(*colours),
        ]
    )
