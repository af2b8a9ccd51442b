"""The focal loss: images that are recognised already count less."""

from __future__ import annotations

from torch import Tensor

from supernets.training.losses import ImageTargets


def focal_loss(logits_BK: Tensor, targets: ImageTargets, smoothing: float) -> Tensor:
    log_B = logits_BK.log_softmax(dim=-1).gather(1, targets.labels_B[:, None])[:, 0]
    return (-((1 - log_B.exp()) ** 2) * log_B).mean()
