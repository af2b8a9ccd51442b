"""Compensation of sliced networks as a run asks for it: see `supernets.timm_models.compensation`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nas.evaluation.classifier import refit_classifier
from search_spaces import Architecture, SingleSpace
from search_spaces.timm_models import TimmSpace

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.timm_models.compensation import Compensator
    from supernets.training.settings import Precision

SEQUENTIAL, PREFIX, NONE = "sequential", "prefix", "none"
LOSS_IMAGES = 64
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

    def chosen(self, supernet: Supernet, data: ImageData, architecture: Architecture, seed: int) -> Supernet:
        """The network that was chosen, alone: whatever judged it, its layers are solved in order, and its classifier
        is fitted again to its own features where that is better on the search part.

        Raises:
            DataError: There are too few training images.
            DegenerateError: Activations are not finite; the message names the block.
        """
        from supernets.errors import SupernetError

        alone = alone_of(supernet, data, architecture, seed, self)
        if isinstance(alone.space.base, TimmSpace) and architecture != supernet.space.largest:
            with suppress(SupernetError):  # a classifier of another kind stays as it is
                refit_classifier(alone, data, seed)
        return alone

    def facts(
        self,
        supernet: Supernet,
        compensator: Compensator,
        data: ImageData,
        seed: int,
        uses_labels: bool = True,
        precision: Precision = "fp32",
    ) -> dict[str, Any]:
        """What ``front.json`` says of it: images, damping, and the loss at the middle of every axis before and after.

        Args:
            supernet: Trained weights.
            compensator: Maker of its networks.
            data: Images.
            seed: Seed of the choice of images.
            uses_labels: Whether the loss is that of labels; else that of two views of an image.
            precision: What products are computed in.
        """
        from supernets.calibration import Calibration
        from supernets.importance import axes_of, middle_of

        images_BCHW, labels_B = next(iter(data.train_batches(min(LOSS_IMAGES, data.splits["train"]), seed, epoch=0)))
        calibration = (
            Calibration.of(supernet, images_BCHW, labels_B)
            if uses_labels
            else Calibration.of_views(supernet, images_BCHW, seed)
        )
        calibration = replace(calibration, precision=precision)
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


def alone_of(
    supernet: Supernet, data: ImageData, architecture: Architecture, seed: int, compensation: Compensation | None
) -> Supernet:
    """A network inside a model, alone, its layers solved in order whatever the variant; as they are with None."""
    from supernets.supernet import Supernet

    alone = Supernet(SingleSpace(supernet.space.base, architecture)).to(supernet.device).eval()
    make = supernet.extract
    if compensation is not None:
        make = replace(compensation, variant=SEQUENTIAL).compensator(supernet, data, seed)
    alone.network.load_state_dict(make(architecture).state_dict())
    return alone
