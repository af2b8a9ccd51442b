"""Losses of supernet training.

Legend of tensor suffixes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Target = Literal["labels", "first", "mean"]
"""What a network of a step learns from, see `target_loss`."""

RATIO_CLIP = 5.0
"""Largest ratio of student to target probabilities in `alpha_divergence_loss`."""


def label_loss(logits_BK: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with labels of which ``smoothing`` is spread evenly over all classes, averaged over the batch."""
    return F.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing)


def distillation_loss(logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Cross-entropy with the soft outputs of a teacher, averaged over the batch; no gradient reaches the teacher.

    Source: in-place distillation of Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
    ICCV 2019, arXiv 1903.05134.
    """
    return F.cross_entropy(logits_BK, teacher_logits_BK.detach().softmax(dim=-1))


def alpha_divergence_loss(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Adaptive alpha-divergence of a student from soft targets, averaged over the batch; no gradient reaches them.

    Of alpha -1, which punishes outputs that the target has not, and alpha 1, which punishes missing ones, each sample
    takes the one that diverges more. The value is that of a surrogate whose gradient is the divergence's with ratios of
    probabilities held constant and clipped at 5, so it can be negative.

    Args:
        logits_BK: Of the student.
        target_BK: Probabilities.

    Source: Wang et al., "AlphaNet: Improved Training of Supernets with Alpha-Divergence", ICML 2021, arXiv 2102.07954,
    with the constants of ElasticViT's reference implementation (Tang et al., ICCV 2023, arXiv 2303.09730).
    """
    log_student_BK = logits_BK.log_softmax(dim=-1)
    with torch.no_grad():
        target_BK = target_BK.detach()
        student_BK = log_student_BK.exp()
        ratio_BK = (log_student_BK - target_BK.log()).exp().clamp(max=RATIO_CLIP)
        below_B = (student_BK * (ratio_BK / 2 - 0.5)).sum(dim=-1)
        above_B = (torch.xlogy(target_BK, target_BK) - target_BK * log_student_BK).sum(dim=-1)
        weights_BK = torch.where((below_B > above_B)[:, None], student_BK * (0.5 - ratio_BK), target_BK)
    return -(weights_BK * log_student_BK).sum(dim=-1).mean()


def target_loss(
    target: Target, logits_BK: Tensor, labels_B: Tensor, earlier: Sequence[Tensor], smoothing: float
) -> Tensor:
    """The loss of one network of a training step, averaged over the batch.

    Args:
        target: The labels; the soft outputs of the step's first network; or the mean of the soft outputs of all
            ``earlier`` ones, by `alpha_divergence_loss`.
        logits_BK: Of the network.
        labels_B: Of the images.
        earlier: Logits of the step's networks before this one; the first network learns from labels in any case.
        smoothing: Of labels, see `label_loss`.
    """
    if target == "labels" or not earlier:
        return label_loss(logits_BK, labels_B, smoothing)
    if target == "first":
        return distillation_loss(logits_BK, earlier[0])
    return alpha_divergence_loss(logits_BK, torch.stack([before.softmax(dim=-1) for before in earlier]).mean(dim=0))
