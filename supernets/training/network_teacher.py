"""A fixed network of ours as the teacher of another one.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NetworkTeacher:
    """Soft targets from a network that takes the same images as its student.

    Args:
        network: Images ``(B, 3, H, W)`` of any side to logits ``(B, K)``; put into evaluation mode, without gradients.
        temperature: What its logits are divided by; under 1 sharpens.
        precision: Precision of its products, float32 or bfloat16.
        has_several_labels: Whether images may have several labels, each with a probability of its own.
    """

    def __init__(
        self,
        network: nn.Module,
        temperature: float = 1.0,
        precision: torch.dtype = torch.float32,
        has_several_labels: bool = False,
    ) -> None:
        self._has_several_labels = has_several_labels
        self._network = network.eval().requires_grad_(False)
        self._temperature, self._precision = temperature, precision

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Its probabilities ``(B, K)``, float32, without gradients."""
        is_reduced = self._precision != torch.float32
        with torch.autocast(images_BCHW.device.type, self._precision, enabled=is_reduced):
            logits_BK: Tensor = self._network(images_BCHW)
        sharpened_BK = logits_BK.float() / self._temperature
        return sharpened_BK.sigmoid() if self._has_several_labels else sharpened_BK.softmax(dim=-1)
