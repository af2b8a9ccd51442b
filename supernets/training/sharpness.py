"""Sharpness-aware minimisation: the gradient is taken at the worst point nearby, which leads to flatter minima.

Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021, arXiv
2010.01412. As in its reference implementation the way uphill is the gradient's direction over all parameters together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def uphill(parameters: Sequence[nn.Parameter], distance: float) -> Iterator[None]:
    """While it lasts, parameters stand ``distance`` away from where they were, along their gradients.

    Args:
        parameters: With gradients, those without stay; moved in place, and put back to the same bits.
        distance: Norm of the way over all of them.
    """
    moved: list[Tensor] = [parameter for parameter in parameters if parameter.grad is not None]
    gradients = [tensor.grad for tensor in moved if tensor.grad is not None]
    before = [tensor.detach().clone() for tensor in moved]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    with torch.no_grad():
        torch._foreach_add_(moved, gradients, alpha=distance / (norm + 1e-12))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, before)
