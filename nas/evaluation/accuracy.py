"""Top-1 accuracy of anything that turns images into logits, and what takes its place where images have several labels.

Legend of tensor suffixes: B batch, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from nas.evaluation.evaluators import BATCH_SIZE
from nas.evaluation.judgement import Judgement
from nas.evaluation.label_judgement import LabelJudgement

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


def judge_labels(
    network: Callable[[Tensor], Any], batches: Iterable[tuple[Tensor, Tensor]], class_names: Sequence[str]
) -> LabelJudgement:
    """The same where images may have several labels ``(B, K)``."""
    import torch

    with torch.inference_mode():
        rows = [(torch.as_tensor(network(x_BCHW)).cpu(), labels_BK) for x_BCHW, labels_BK in batches]
    scores_NK, labels_NK = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return LabelJudgement.of(class_names, scores_NK, labels_NK)


def judge_part(network: Callable[[Tensor], Any], images: ImageData, part: Part) -> Judgement | LabelJudgement:
    """What a network is worth on a part of the images: on classes, or on labels where images may have several.

    Args:
        network: Images ``(B, 3, H, W)`` to logits or probabilities ``(B, K)``, a tensor or an array.
        images: Images to judge it on.
        part: Part of the images.
    """
    batches = images.batches(part, BATCH_SIZE)
    if images.has_several_labels:
        return judge_labels(network, batches, images.class_names)
    return judge(network, batches, images.class_names)


def check_one_label(images: ImageData, what: str) -> None:
    """Make sure that images have one class each, where only those are understood.

    Args:
        images: Images.
        what: What needs that, for the message, for example ``early exits``.

    Raises:
        UsageError: They may have several labels.
    """
    if images.has_several_labels:
        raise UsageError(
            f"{what}: images of `{images.source}` have several labels, expected one class of each",
            hint="train, search, finish and export work with several labels",
        )


def guessed(images: ImageData, part: Part) -> float:
    """What guessing is worth: the accuracy of always saying the commonest class of a part, in [0, 1].

    Where images have several labels it is the mean average precision of scores at random.
    """
    import torch

    if images.has_several_labels:
        known = [count for count in images.class_counts(part).tolist() if count]
        return float(sum(known) / (len(known) * images.splits[part]))
    labels = torch.cat([labels_B for _, labels_B in images.batches(part, BATCH_SIZE)])
    return int(labels.bincount().max()) / len(labels)


def accuracy_of(
    network: Callable[[Tensor], Tensor], images: ImageData, part: Part, device: torch.device | str
) -> float:
    """Top-1 accuracy of a network or teacher on a part of the images, in [0, 1]; see `judge_part` for several labels.

    Args:
        network: Images ``(B, 3, H, W)`` to logits or probabilities ``(B, K)``.
        images: Images to judge it on.
        part: Part of the images.
        device: Where it runs.
    """
    return judge_part(lambda x_BCHW: network(x_BCHW.to(device)), images, part).value
