"""Mixed precision: products in half precision, weights and sums in single precision."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from supernets.training.settings import Precision

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SMALLEST_SCALE = 2.0**-10
"""Below it, gradients that are still too large for half precision are not a matter of the scale."""


class MixedPrecision:
    """The forward pass in a precision, and for fp16 the scale that keeps small gradients from vanishing.

    Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv 1710.03740.

    Args:
        precision: Precision of products.
        device: Device that they are computed on.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._dtype = _DTYPES.get(precision)
        self._device = device
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    @property
    def is_scaled(self) -> bool:
        """Whether a step whose gradients overflow is left out, and the scale lowered, instead of being an error."""
        return self._scaler.is_enabled() and self._scaler.get_scale() >= SMALLEST_SCALE

    def forward(self) -> AbstractContextManager[object]:
        """While it lasts, products are in half precision where that was asked for."""
        return nullcontext() if self._dtype is None else torch.autocast(self._device.type, self._dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to call ``backward`` on."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo the scale in the gradients, before they are clipped."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimiser step, unless gradients have overflowed."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """The scale, JSON-ready; empty where there is none."""
        return self._scaler.state_dict()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""
        if state:
            self._scaler.load_state_dict(dict(state))
