"""Keeping gradients small."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from supernets.training.settings import Clipping


def clip_gradients(parameters: Iterable[nn.Parameter], clipping: Clipping, limit: float) -> float:
    """Clip gradients in place.

    Args:
        parameters: Those without a gradient are left out.
        clipping: ``norm`` shrinks the whole gradient to a norm of ``limit``; ``adaptive`` shrinks the gradient of each
            unit (row of a matrix, kernel of a convolution, whole one-dimensional tensor) to ``limit`` times the norm of
            the unit's weights; ``none`` leaves it.
        limit: See ``clipping``.

    Returns:
        The norm of the whole gradient before.

    Source of adaptive clipping: Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization",
    ICML 2021, arXiv 2102.06171, as in timm.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if clipping == "norm":
        return nn.utils.clip_grad_norm_(parameters, limit).item()
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters]).item()  # type: ignore[misc]
    if clipping == "adaptive":
        from timm.utils.agc import adaptive_clip_grad

        with torch.no_grad():
            adaptive_clip_grad(parameters, clip_factor=limit)  # type: ignore[no-untyped-call]
    return norm
