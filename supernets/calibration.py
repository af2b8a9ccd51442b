"""What networks inside a model are compared on before anything is searched: images, and what outputs should be.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes or other outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.supernet import Supernet
from supernets.training.precision import MixedPrecision
from supernets.training.settings import Precision

BATCH = 64
LEAST_SCALE = 0.25
"""Share of an image's area that a random crop has at least."""


def cross_entropies(outputs_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """The sum of cross-entropies of logits and probabilities of classes."""
    return F.cross_entropy(outputs_BK, targets_BK, reduction="sum")


def binary_cross_entropies(outputs_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """The sum over images of the cross-entropy of having each label and not, averaged over labels."""
    return F.binary_cross_entropy_with_logits(outputs_BK, targets_BK, reduction="sum") / outputs_BK.shape[1]


def angles(outputs_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """The sum of one minus the cosine of outputs and targets."""
    return (1 - F.cosine_similarity(outputs_BK, targets_BK, dim=1)).sum()


@dataclass(frozen=True)
class Calibration:
    """Images to judge importance on, as small batches.

    Attributes:
        images_BCHW: Normalised images on the device of the supernet.
        targets_BK: Probabilities of the classes, or what else outputs are compared with.
        total: What is lost by outputs beside targets, summed over images.
        precision: What products are computed in where networks are compared, not where gradients are taken.
    """

    images_BCHW: Tensor
    targets_BK: Tensor
    total: Callable[[Tensor, Tensor], Tensor] = cross_entropies
    precision: Precision = "fp32"

    @classmethod
    def of(cls, supernet: Supernet, images_BCHW: Tensor, labels_B: Tensor | None = None) -> Calibration:
        """Calibration on labels ``(B,)`` or ``(B, K)``, or where there are none on what the whole network says."""
        images_BCHW = images_BCHW.to(supernet.device)
        if labels_B is not None and labels_B.ndim == 2:
            return cls(images_BCHW, labels_B.to(supernet.device).float(), binary_cross_entropies)
        if labels_B is not None:
            return cls(images_BCHW, F.one_hot(labels_B.to(supernet.device), supernet.space.classes).float())
        with torch.no_grad():
            parts = [supernet.network(part_BCHW).softmax(dim=1) for part_BCHW in torch.split(images_BCHW, BATCH)]
        return cls(images_BCHW, torch.cat(parts))

    @classmethod
    def of_outputs(cls, supernet: Supernet, images_BCHW: Tensor) -> Calibration:
        """Calibration without labels: outputs beside the whole network's for the same images."""
        images_BCHW = images_BCHW.to(supernet.device)
        with torch.no_grad():
            parts = [supernet.network(part_BCHW) for part_BCHW in torch.split(images_BCHW, BATCH)]
        return cls(images_BCHW, torch.cat(parts), angles)

    @classmethod
    def of_views(cls, supernet: Supernet, images_BCHW: Tensor, seed: int) -> Calibration:
        """Calibration without labels: outputs for one random crop beside the whole network's for another.

        Args:
            supernet: The whole network's outputs are features, as `supernets.fidelity` makes them.
            images_BCHW: Normalised images.
            seed: Seed of the crops.
        """
        generator = torch.Generator().manual_seed(seed)
        first_BCHW, second_BCHW = (
            torch.stack([_crop(image_CHW, generator) for image_CHW in images_BCHW]).to(supernet.device)
            for _ in range(2)
        )
        with torch.no_grad():
            parts = [supernet.network(part_BCHW) for part_BCHW in torch.split(second_BCHW, BATCH)]
        return cls(first_BCHW, torch.cat(parts), angles)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Small batches of images and targets."""
        return zip(torch.split(self.images_BCHW, BATCH), torch.split(self.targets_BK, BATCH), strict=True)

    @torch.no_grad()
    def loss(self, network: Callable[[Tensor], Tensor]) -> float:
        """Mean loss of one network."""
        with self.reduced():
            sums = [
                self.total(network(images_BCHW).float(), targets_BK).item()
                for images_BCHW, targets_BK in self.batches()
            ]
        return sum(sums) / len(self.images_BCHW)

    def reduced(self) -> AbstractContextManager[object]:
        """While it lasts, products are computed in the precision of comparisons."""
        return MixedPrecision(self.precision, self.images_BCHW.device).forward()


def _crop(image_CHW: Tensor, generator: torch.Generator) -> Tensor:
    """A random square of a quarter of the image or more, at the image's size."""
    least, drawn_3 = LEAST_SCALE, torch.rand(3, generator=generator).tolist()
    sides = [max(1, round(side * (least + (1 - least) * drawn_3[0]) ** 0.5)) for side in image_CHW.shape[1:]]
    row, column = (
        int(share * (whole - side + 1))
        for share, whole, side in zip(drawn_3[1:], image_CHW.shape[1:], sides, strict=True)
    )
    square_1CHW = image_CHW[None, :, row : row + sides[0], column : column + sides[1]]
    resized = F.interpolate(square_1CHW, tuple(image_CHW.shape[1:]), mode="bicubic", align_corners=False)
    return resized[0]
