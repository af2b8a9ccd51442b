"""Compensation of sliced networks as a run asks for it: see `supernets.timm_models.compensation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.timm_models.compensation import Compensator

SEQUENTIAL, NONE = "sequential", "none"
LOSS_IMAGES = 128
"""Images that the loss before and after is taken on."""


@dataclass(frozen=True)
class Compensation:
    """How what is cut out of a network is made up for.

    Attributes:
        variant: ``sequential`` or ``prefix``.
        images: Training images that layers are solved on, where there are as many.
    """

    variant: str
    images: int

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Compensation | None:
        """What the settings of a run say; None where nothing is compensated."""
        variant = settings.get("compensation") or NONE
        return None if variant == NONE else cls(variant, settings["compensation_images"])

    def compensator(self, supernet: Supernet, data: ImageData, seed: int) -> Compensator:
        """What makes the networks of a supernet, on the same images for the same seed.

        Raises:
            DataError: There are too few training images.
        """
        from supernets.timm_models.compensation import Compensator

        count = min(self.images, data.splits["train"])
        images_BCHW, _ = next(iter(data.train_batches(count, seed, epoch=0)))
        return Compensator(supernet, images_BCHW, self.variant)

    def facts(self, supernet: Supernet, data: ImageData, seed: int) -> dict[str, Any]:
        """What ``front.json`` says of it: images, damping, and the loss at the middle of every axis before and after.

        Args:
            supernet: Trained weights.
            data: Images.
            seed: Seed of the choice of images.
        """
        from supernets.importance import Calibration, axes_of, middle_of

        compensator = self.compensator(supernet, data, seed)
        images_BCHW, labels_B = next(iter(data.train_batches(min(LOSS_IMAGES, data.splits["train"]), seed, epoch=0)))
        calibration = Calibration.of(supernet, images_BCHW, labels_B)
        losses = {}
        for axis in axes_of(supernet) if compensator.variant != NONE else ():
            architecture = middle_of(supernet.space, axis)
            losses[axis] = {
                "before": calibration.loss(supernet.extract(architecture).eval()),
                "after": calibration.loss(compensator(architecture)),
            }
        return {
            "variant": compensator.variant,
            "images": compensator.images,
            "alpha": compensator.alpha,
            "losses": losses,
        }
