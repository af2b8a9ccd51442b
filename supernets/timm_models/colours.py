"""Weights that expect images normalised in one way, changed for images normalised in another; the function stays.

The first convolution is linear, so a factor and a term per colour can be put into it: exactly where it has no padding,
or where there is no term, since padding with zeros means another colour once there is one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from supernets.errors import SupernetError
from supernets.supernet import Supernet

CLOSE = 1e-6


@torch.no_grad()
def adapt_colours(
    supernet: Supernet,
    first_convolution: str,
    expected: tuple[Sequence[float], Sequence[float]],
    given: tuple[Sequence[float], Sequence[float]],
) -> None:
    """Change the first convolution in place, so that images normalised as ``given`` do what ``expected`` ones did.

    Args:
        supernet: Supernet of a timm space.
        first_convolution: Name of the first convolution in the timm model, for example ``patch_embed.proj``.
        expected: Mean and standard deviation of the three colours that the weights were trained with.
        given: Those of the images that it will see.

    Raises:
        SupernetError: The layer pads, or has no bias, and the means differ.
    """
    (mean_C, std_C), (given_mean_C, given_std_C) = (
        [torch.tensor(values) for values in pair] for pair in (expected, given)
    )
    factor_C, term_C = given_std_C / std_C, (given_mean_C - mean_C) / std_C
    if max((factor_C - 1).abs().max().item(), term_C.abs().max().item()) < CLOSE:
        return
    layer = supernet.network.get_submodule(f"stem.{first_convolution}")
    has_term = term_C.abs().max().item() >= CLOSE
    is_exact = isinstance(layer, nn.Conv2d) and (not has_term or (layer.padding == (0, 0) and layer.bias is not None))
    if not isinstance(layer, nn.Conv2d) or not is_exact:
        raise SupernetError(
            f"weights of `{supernet.space.name}` expect images with mean {_numbers(mean_C)} and deviation"
            f" {_numbers(std_C)}, found {_numbers(given_mean_C)} and {_numbers(given_std_C)}, and layer"
            f" `{first_convolution}` cannot take over the difference: it pads, or has no bias",
            hint="give images from a folder, whose colours are normalised as ImageNet's, or start from random weights",
        )
    if layer.bias is not None:
        layer.bias += torch.einsum("ochw,c->o", layer.weight, term_C.to(layer.weight))
    layer.weight *= factor_C.to(layer.weight)[None, :, None, None]


def _numbers(values_C: torch.Tensor) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values_C.tolist()) + ")"
