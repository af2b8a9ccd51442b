"""Losses of supernet training.

Legend of tensor suffixes: B batch, K classes, P patches, N patches of all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.token_logits import TokenLogits

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


@dataclass(frozen=True)
class Lesson:
    """What there is to learn from some images.

    Attributes:
        labels_B: Of the images, as they were before they were mixed.
        targets_BK: Probabilities of the classes, where images were mixed; the smoothed labels elsewhere.
        patch_targets_BPK: The same of every patch; None where each has its image's.
        teacher_BK: Probabilities by the teachers; None without any.
        label_share: Share of labels in the loss where there are teachers; the rest is theirs.
    """

    labels_B: Tensor
    targets_BK: Tensor | None = None
    patch_targets_BPK: Tensor | None = None
    teacher_BK: Tensor | None = None
    label_share: float = 0.0

    def part(self, index: int, count: int) -> Lesson:
        """That of images ``index::count``."""
        if count == 1:
            return self
        names = ("labels_B", "targets_BK", "patch_targets_BPK", "teacher_BK")
        tensors = {name: tensor for name in names if (tensor := getattr(self, name)) is not None}
        cut: dict[str, Any] = {name: tensor[index::count] for name, tensor in tensors.items()}
        return replace(self, **cut)


Output = Tensor | TokenLogits
"""Logits ``(B, K)`` of a network, with those of its patches beside them where it has a patch classifier."""


def class_logits(output: Output) -> Tensor:
    """The logits ``(B, K)`` of the images, in float32 at least."""
    logits_BK = output.logits_BK if isinstance(output, TokenLogits) else output
    return logits_BK.float() if logits_BK.dtype in (torch.float16, torch.bfloat16) else logits_BK


def target_loss(target: Target, output: Output, lesson: Lesson, earlier: Sequence[Tensor], smoothing: float) -> Tensor:
    """The loss of one network of a training step, averaged over its images.

    Args:
        target: The lesson; the soft outputs of the step's first network; or the mean of the soft outputs of all
            ``earlier`` ones, by `alpha_divergence_loss`. Patches learn from the lesson in any case.
        output: Of the network.
        lesson: Of its images.
        earlier: Logits of the step's networks before this one on the same images; the first network learns from the
            lesson in any case.
        smoothing: Of labels, see `label_loss`.
    """
    logits_BK = class_logits(output)
    if target == "labels" or not earlier:
        loss = lesson_loss(logits_BK, lesson, smoothing)
    elif target == "first":
        loss = distillation_loss(logits_BK, earlier[0])
    else:
        loss = alpha_divergence_loss(logits_BK, torch.stack([before.softmax(dim=-1) for before in earlier]).mean(dim=0))
    return loss + patch_loss(output.patches_BPK, lesson, smoothing) if isinstance(output, TokenLogits) else loss


def lesson_loss(logits_BK: Tensor, lesson: Lesson, smoothing: float) -> Tensor:
    """Cross-entropy with the labels, the mixed targets or the teachers, averaged over the images.

    Source of the shares: Tang et al., "ElasticViT", ICCV 2023, arXiv 2303.09730, whose two teachers replace the labels
    and whose single teacher stands beside them.
    """
    if lesson.teacher_BK is None:
        return _on_labels(logits_BK, lesson, smoothing)
    taught = F.cross_entropy(logits_BK, lesson.teacher_BK.to(logits_BK.dtype))
    if lesson.label_share == 0:
        return taught
    return lesson.label_share * _on_labels(logits_BK, lesson, smoothing) + (1 - lesson.label_share) * taught


def patch_loss(patches_BPK: Tensor, lesson: Lesson, smoothing: float) -> Tensor:
    """Cross-entropy of every patch with its own target, else with its image's, averaged over patches and images.

    Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642.
    """
    count = patches_BPK.shape[1]
    logits_NK = patches_BPK.flatten(0, 1).float()
    if lesson.patch_targets_BPK is not None:
        return F.cross_entropy(logits_NK, lesson.patch_targets_BPK.flatten(0, 1).float())
    if lesson.targets_BK is not None:
        return F.cross_entropy(logits_NK, lesson.targets_BK.repeat_interleave(count, dim=0).float())
    return label_loss(logits_NK, lesson.labels_B.repeat_interleave(count), smoothing)


def _on_labels(logits_BK: Tensor, lesson: Lesson, smoothing: float) -> Tensor:
    if lesson.targets_BK is None:
        return label_loss(logits_BK, lesson.labels_B, smoothing)
    return F.cross_entropy(logits_BK, lesson.targets_BK.to(logits_BK.dtype))
