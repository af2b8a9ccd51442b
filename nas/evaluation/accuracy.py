"""Top-1 accuracy of anything that turns images into logits.

Legend of tensor suffixes: B batch, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nas.evaluation.evaluators import BATCH_SIZE
from nas.evaluation.judgement import Judgement

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from supernets.data.image_data import ImageData, Part


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
    return Judgement.of(class_names, right_K, images_K)


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
