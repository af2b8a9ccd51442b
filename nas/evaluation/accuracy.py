"""Top-1 accuracy of anything that turns images into logits.

Legend of tensor suffixes: B batch, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.evaluation.evaluators import BATCH_SIZE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from supernets.data.image_data import ImageData, Part


@dataclass(frozen=True)
class Judgement:
    """How often a network is right, class by class.

    Attributes:
        class_names: Names of the classes in label order.
        right: Images of each class that it is right on.
        images: Images of each class.
    """

    class_names: Sequence[str]
    right: Sequence[int]
    images: Sequence[int]

    @property
    def accuracy(self) -> float:
        """Share of the images that it is right on, in [0, 1]."""
        return sum(self.right) / sum(self.images)

    @property
    def balanced_accuracy(self) -> float:
        """The mean over classes of the share that it is right on; classes without images do not count."""
        shares = [right / images for right, images in zip(self.right, self.images, strict=True) if images]
        return sum(shares) / len(shares)

    @property
    def commonest(self) -> tuple[str, float]:
        """The class with most images, and the accuracy of always saying it."""
        most = max(range(len(self.images)), key=self.images.__getitem__)
        return self.class_names[most], self.images[most] / sum(self.images)

    @property
    def is_uneven(self) -> bool:
        """Whether some classes have so many more images than others that accuracy alone misleads."""
        from supernets.data.stored_images import UNEVEN

        return max(self.images) > UNEVEN * min(filter(None, self.images))

    def to_dict(self, part: str) -> dict[str, Any]:
        """Ready for JSON, each key with the name of the ``part`` of the images before it."""
        name, share = self.commonest
        by_class = {
            name: {"images": images, "accuracy": right / images}
            for name, right, images in zip(self.class_names, self.right, self.images, strict=True)
            if images
        }
        return {
            f"{part}_accuracy": self.accuracy,
            f"{part}_images": sum(self.images),
            f"{part}_balanced_accuracy": self.balanced_accuracy,
            f"{part}_commonest_class": name,
            f"{part}_commonest_accuracy": share,
            f"{part}_is_uneven": self.is_uneven,
            f"{part}_by_class": by_class,
        }


def judge(
    network: Callable[[Tensor], Any], batches: Iterable[tuple[Tensor, Tensor]], class_names: Sequence[str]
) -> Judgement:
    """Count what a network is right on.

    Args:
        network: Images ``(B, 3, H, W)`` to logits or probabilities ``(B, K)``, a tensor or an array.
        batches: Images, and their labels ``(B,)``.
        class_names: Names of the classes in label order.
    """
    import torch

    right_K, images_K = (torch.zeros(len(class_names), dtype=torch.int64) for _ in range(2))
    with torch.inference_mode():
        for x_BCHW, labels_B in batches:
            classes_B = torch.as_tensor(network(x_BCHW)).argmax(dim=1).cpu()
            right_K += torch.bincount(labels_B[classes_B == labels_B], minlength=len(class_names))
            images_K += torch.bincount(labels_B, minlength=len(class_names))
    return Judgement(class_names, right_K.tolist(), images_K.tolist())


def commonest_accuracy(images: ImageData, part: Part) -> float:
    """The accuracy of always saying the commonest class of a part of the images, in [0, 1]."""
    import torch

    labels = torch.cat([labels_B for _, labels_B in images.batches(part, BATCH_SIZE)])
    return int(labels.bincount().max()) / len(labels)


def accuracy_of(
    network: Callable[[Tensor], Tensor], images: ImageData, part: Part, device: torch.device | str
) -> float:
    """Top-1 accuracy of a network or teacher on a part of the images, in [0, 1].

    Args:
        network: Images ``(B, 3, H, W)`` to logits or probabilities ``(B, K)``.
        images: Images to judge it on.
        part: Part of the images.
        device: Where it runs.
    """
    batches = images.batches(part, BATCH_SIZE)
    return judge(lambda x_BCHW: network(x_BCHW.to(device)), batches, images.class_names).accuracy
