"""How often a network is right, class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.objectives.objective import ACCURACY, BALANCED

if TYPE_CHECKING:
    from torch import Tensor

FREQUENCIES: Mapping[str, int] = {"many": 101, "some": 20, "few": 0}
"""Groups of classes by their fewest training images, as the literature of long tails divides them."""


def are_uneven(counts: Sequence[int]) -> bool:
    """Whether some classes have so many more images than others that this is said; classes without any do not count."""
    from supernets.data.stored_images import UNEVEN

    found = [count for count in counts if count]
    return bool(found) and max(found) > UNEVEN * min(found)


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

    name = ACCURACY
    beside_name = BALANCED

    @classmethod
    def of(cls, class_names: Sequence[str], right_K: Tensor | int, images_K: Tensor | int) -> Judgement:
        """From counts by class, as tensors."""
        import torch

        return cls(class_names, torch.as_tensor(right_K).tolist(), torch.as_tensor(images_K).tolist())

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
    def value(self) -> float:
        """Accuracy, the figure that leads."""
        return self.accuracy

    @property
    def beside(self) -> float:
        """Balanced accuracy."""
        return self.balanced_accuracy

    @property
    def commonest(self) -> tuple[str, float]:
        """The class with most images, and the accuracy of always saying it."""
        most = max(range(len(self.images)), key=self.images.__getitem__)
        return self.class_names[most], self.images[most] / sum(self.images)

    @property
    def is_uneven(self) -> bool:
        """Whether some classes have so many more images than others that accuracy alone misleads."""
        return are_uneven(self.images)

    def by_frequency(self, counts: Sequence[int]) -> dict[str, dict[str, float]]:
        """The mean over classes with many, some and few training images, and how many classes those are.

        Args:
            counts: Training images of each class.
        """
        found: dict[str, list[float]] = {}
        for count, right, images in zip(counts, self.right, self.images, strict=True):
            if images:
                group = next(name for name, least in FREQUENCIES.items() if count >= least)
                found.setdefault(group, []).append(right / images)
        return {
            name: {"classes": len(found[name]), "accuracy": sum(found[name]) / len(found[name])}
            for name in FREQUENCIES
            if name in found
        }

    def to_dict(self, part: str, counts: Sequence[int] = ()) -> dict[str, Any]:
        """Ready for JSON, each key with the name of the ``part`` of the images before it.

        Args:
            part: Part of the images that was judged.
            counts: Training images of each class; where they are uneven, groups of classes are told apart.
        """
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
            **({f"{part}_by_frequency": self.by_frequency(counts)} if are_uneven(counts) else {}),
        }
