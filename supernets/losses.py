"""Losses of supernet training.

Legend of tensor suffixes: B batch, K classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def label_loss(logits_BK: Tensor, labels_B: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with labels of which ``smoothing`` is spread evenly over all classes, averaged over the batch."""
    return F.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing)


def distillation_loss(logits_BK: Tensor, teacher_logits_BK: Tensor) -> Tensor:
    """Cross-entropy with the soft outputs of a teacher, averaged over the batch; no gradient reaches the teacher.

    Source: in-place distillation of Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
    ICCV 2019, arXiv 1903.05134.
    """
    return F.cross_entropy(logits_BK, teacher_logits_BK.detach().softmax(dim=-1))
