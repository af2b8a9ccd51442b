"""Top-1 accuracy of anything that turns images into logits.

Legend of tensor suffixes: B batch, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nas.evaluation.evaluators import BATCH_SIZE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from supernets.data.image_data import ImageData, Part


def top1_accuracy(network: Callable[[Tensor], Any], batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, int]:
    """Share of the images that a network is right on, in [0, 1], and their number.

    Args:
        network: Images ``(B, 3, H, W)`` to logits or probabilities ``(B, K)``, a tensor or an array.
        batches: Images, and their labels ``(B,)``.
    """
    import torch

    correct, count = 0, 0
    with torch.inference_mode():
        for x_BCHW, labels_B in batches:
            classes_B = torch.as_tensor(network(x_BCHW)).argmax(dim=1).cpu()
            correct += int((classes_B == labels_B).sum())
            count += len(labels_B)
    return correct / count, count


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
    return top1_accuracy(lambda x_BCHW: network(x_BCHW.to(device)), images.batches(part, BATCH_SIZE))[0]
