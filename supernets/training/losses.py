"""Losses of supernet training.

What networks learn from labels, mixed images and teachers by is a loss with a name. Ours is ``cross-entropy``; other
packages register theirs as entry points `nas.losses`, and a program calls `register_loss`.

Legend of tensor suffixes: B batch, K classes, P patches, N patches of all images, E features, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from search_spaces.plugins import Registry
from supernets.token_logits import TokenLogits

Target = Literal["labels", "first", "mean"]
"""What a network of a step learns from, see `target_loss`."""

RATIO_CLIP = 5.0
"""Largest ratio of student to target probabilities in `alpha_divergence_loss`."""


def label_loss(logits_BK: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with labels of which ``smoothing`` is spread evenly over all classes, averaged over the batch.

    Where images have several labels, ``(B, K)``, it is the binary one, averaged over classes too, and ``smoothing`` is
    spread over having the label and not.
    """
    if labels_B.ndim == 2:
        return binary_loss(logits_BK, labels_B * (1 - smoothing) + smoothing / 2)
    return F.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing)


def binary_loss(logits_BK: Tensor, targets_BK: Tensor) -> Tensor:
    """Cross-entropy of having each label and not, averaged over classes and the batch."""
    return F.binary_cross_entropy_with_logits(logits_BK, targets_BK.to(logits_BK.dtype))


def distillation_loss(logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Cross-entropy with the soft outputs of a teacher, averaged over the batch; no gradient reaches the teacher.

    Source: in-place distillation of Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
    ICCV 2019, arXiv 1903.05134.
    """
    return F.cross_entropy(logits_BK, teacher_logits_BK.detach().softmax(dim=-1))


def alpha_divergence_loss(logits_BK: Tensor, target_BK: Tensor) -> Tensor:
    """Adaptive alpha-divergence of a student from soft targets, averaged over the batch; no gradient reaches them.

    Alpha -1 punishes outputs that the target has not, alpha 1 punishes missing ones; each sample takes the one that
    diverges more. The value is that of a surrogate whose gradient is the divergence's with ratios of
    probabilities held constant and clipped at 5, so it can be negative.

    Args:
        logits_BK: Logits of the student.
        target_BK: Probabilities to come near to.

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
class Seen:
    """What a network sees in images.

    Attributes:
        whole_BE: Features of the images, which flow into the classifier: the class token, or what is pooled.
        patches_BEHW: The map of patches behind the last norm; None where merged tokens are on no grid.
    """

    whole_BE: Tensor
    patches_BEHW: Tensor | None

    def part(self, every: slice) -> Seen:
        """What it sees in some of the images."""
        return Seen(self.whole_BE[every], None if self.patches_BEHW is None else self.patches_BEHW[every])


@dataclass(frozen=True)
class ImageTargets:
    """What networks are to say about some images.

    Attributes:
        labels_B: Labels of the images, as they were before they were mixed; ``(B, K)`` where they have several.
        classes_BK: Probabilities of the classes where images were mixed; None where the labels say all.
        patches_BPK: Probabilities of the classes of every patch; None where each patch has those of its image.
        teacher_BK: Probabilities that the teachers give; None without any.
        label_share: Share of labels in the loss where there are teachers; the rest is theirs.
        is_hard: Whether the class that teachers find most probable is learnt in place of their probabilities.
        weights_K: Weights of classes in what hard teachers say, and in labels where nothing teaches; None for one.
        seen: What the teacher sees in the images, where that is learnt in place of all else; None where it is not.
    """

    labels_B: Tensor
    classes_BK: Tensor | None = None
    patches_BPK: Tensor | None = None
    teacher_BK: Tensor | None = None
    label_share: float = 0.0
    is_hard: bool = False
    weights_K: Tensor | None = None
    seen: Seen | None = None

    @property
    def has_several_labels(self) -> bool:
        """Whether images may have several labels, so that probabilities are those of each label by itself."""
        return self.labels_B.ndim == 2

    def part(self, index: int, count: int) -> ImageTargets:
        """The targets of images ``index::count``."""
        if count == 1:
            return self
        every = slice(index, None, count)
        classes_BK, patches_BPK, teacher_BK = (
            None if tensor is None else tensor[every] for tensor in (self.classes_BK, self.patches_BPK, self.teacher_BK)
        )
        return replace(
            self,
            labels_B=self.labels_B[every],
            classes_BK=classes_BK,
            patches_BPK=patches_BPK,
            teacher_BK=teacher_BK,
            seen=None if self.seen is None else self.seen.part(every),
        )


Loss = Callable[[Tensor, ImageTargets, float], Tensor]
"""Logits ``(B, K)``, targets and label smoothing to the loss, averaged over the images, see `supervised_loss`."""
Output = Tensor | TokenLogits
"""Logits ``(B, K)`` of a network, with those of its patches beside them where it has a patch classifier."""


def class_logits(output: Output) -> Tensor:
    """The logits ``(B, K)`` of the images, in float32 at least."""
    logits_BK = output.logits_BK if isinstance(output, TokenLogits) else output
    return logits_BK.float() if logits_BK.dtype in (torch.float16, torch.bfloat16) else logits_BK


def target_loss(
    target: Target, output: Output, targets: ImageTargets, earlier: Sequence[Tensor], smoothing: float, loss: Loss
) -> Tensor:
    """The loss of one network of a training step, averaged over its images.

    Args:
        target: What it learns from: the ``labels``, which stand for all of ``targets``; the soft outputs of the step's
            ``first`` network; or the ``mean`` of the soft outputs of all ``earlier`` ones, by `alpha_divergence_loss`
            (by `binary_loss` where images have several labels).
            Patches learn from ``targets`` in any case.
        output: What the network says about the images.
        targets: What it should say.
        earlier: Logits of the step's networks before this one on the same images; the first network learns from
            ``targets`` in any case.
        smoothing: Share of each label that is spread over all classes, see `label_loss`.
        loss: What it learns from ``targets`` by; patches learn by cross-entropy.
    """
    logits_BK = class_logits(output)
    if target == "labels" or not earlier:
        found = loss(logits_BK, targets, smoothing)
    elif targets.has_several_labels:
        known = earlier[:1] if target == "first" else earlier
        found = binary_loss(logits_BK, torch.stack([before.sigmoid() for before in known]).mean(dim=0))
    elif target == "first":
        found = distillation_loss(logits_BK, earlier[0])
    else:
        mean_BK = torch.stack([before.softmax(dim=-1) for before in earlier]).mean(dim=0)
        found = alpha_divergence_loss(logits_BK, mean_BK)
    return found + patch_loss(output.patches_BPK, targets, smoothing) if isinstance(output, TokenLogits) else found


def supervised_loss(logits_BK: Tensor, targets: ImageTargets, smoothing: float) -> Tensor:
    """Cross-entropy with the labels, the mixed targets or the teachers, averaged over the images; see `label_loss`.

    Source of the shares: Tang et al., "ElasticViT", ICCV 2023, arXiv 2303.09730, whose two teachers replace the labels
    and whose single teacher stands beside them. A mean over weighted images is one by the sum of their weights.
    """
    if targets.teacher_BK is None:
        return _on_labels(logits_BK, targets, smoothing, targets.weights_K)
    if targets.has_several_labels:
        taught = binary_loss(logits_BK, targets.teacher_BK)
    elif targets.is_hard:
        taught = F.cross_entropy(logits_BK, targets.teacher_BK.argmax(dim=-1), targets.weights_K)
    else:
        taught = F.cross_entropy(logits_BK, targets.teacher_BK.to(logits_BK.dtype))
    if targets.label_share == 0:
        return taught
    return targets.label_share * _on_labels(logits_BK, targets, smoothing) + (1 - targets.label_share) * taught


def patch_loss(patches_BPK: Tensor, targets: ImageTargets, smoothing: float) -> Tensor:
    """Cross-entropy of every patch with its own target, else with its image's, averaged over patches and images.

    Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642.
    """
    count = patches_BPK.shape[1]
    logits_NK = patches_BPK.flatten(0, 1).float()
    if targets.patches_BPK is not None:
        return F.cross_entropy(logits_NK, targets.patches_BPK.flatten(0, 1).float())
    if targets.classes_BK is not None:
        return F.cross_entropy(logits_NK, targets.classes_BK.repeat_interleave(count, dim=0).float())
    return label_loss(logits_NK, targets.labels_B.repeat_interleave(count), smoothing)


def _on_labels(logits_BK: Tensor, targets: ImageTargets, smoothing: float, weights_K: Tensor | None = None) -> Tensor:
    if targets.has_several_labels:
        return (
            label_loss(logits_BK, targets.labels_B, smoothing)
            if targets.classes_BK is None
            else binary_loss(logits_BK, targets.classes_BK)
        )
    if targets.classes_BK is None:
        return F.cross_entropy(logits_BK, targets.labels_B, weights_K, label_smoothing=smoothing)
    return F.cross_entropy(logits_BK, targets.classes_BK.to(logits_BK.dtype))


LOSSES: Registry[Loss] = Registry("loss", "nas.losses", {"cross-entropy": supervised_loss})
register_loss = LOSSES.register
loss_names = LOSSES.names
get_loss = LOSSES.get
