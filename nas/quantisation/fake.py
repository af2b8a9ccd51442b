"""Fake quantisation: a network computes in floats what it would compute in integers.

Numbers are rounded as the files of `latency_tables.onnx_quantised` round them, so that what a precision costs is known
without a file, and can be trained against: gradients pass straight through the rounding (Bengio et al., arXiv
1308.3432; Jacob et al., CVPR 2018, arXiv 1712.05877).

Legend of tensor suffixes: O outputs and I inputs of a layer, J blocks of a row of weights, `*` any further dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latency_tables.onnx_quantised import BLOCK, WEIGHT_BITS, Precision
from nas.quantisation.watching import LayerMode

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest number that each layer reads, by its name."""


class FakeQuantisation(LayerMode):
    """Computes each layer as its precision would.

    Args:
        network: The network that will run.
        precisions: What layers compute in, by their names; fp32 where a layer is not named.
        ranges: What layers read, for those in ``int8``.
    """

    def __init__(self, network: nn.Module, precisions: Mapping[str, Precision], ranges: Ranges) -> None:
        super().__init__(network)
        self.precisions, self.ranges = precisions, ranges

    def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
        """What the layer gives in its precision."""
        precision = self.precisions.get(name, "fp32")
        if precision == "int8":
            low, high = self.ranges[name]
            x = _passed(x, rounded(x.detach(), torch.tensor(low), torch.tensor(high)))
        elif precision == "int8-dynamic":
            flat = x.detach().flatten(1)
            shape = (-1, *[1] * (x.ndim - 1))
            low_B, high_B = flat.amin(dim=1).clamp(max=0.0), flat.amax(dim=1).clamp(min=0.0)
            x = _passed(x, rounded(x.detach(), low_B.reshape(shape), high_B.reshape(shape)))
        if precision != "fp32":
            weight = self.weight(name, weight, precision)
        return super().layer(name, function, x, weight, *others, **options)

    def weight(self, name: str, weight: Tensor, precision: Precision) -> Tensor:
        """The layer's weight in its precision."""
        return _passed(weight, rounded_weight(weight.detach(), precision))


def _passed(value: Tensor, rounded: Tensor) -> Tensor:
    """The rounded numbers, with the gradient of those that were not."""
    return value + (rounded - value).detach() if value.requires_grad else rounded


def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Numbers on a grid of 256 between two ends, of which 0 is one, and none outside."""
    scale = ((high - low) / 255).clamp(min=1e-12)
    zero = torch.round(-low / scale)
    on_grid: Tensor = ((x / scale).round() + zero).clamp(0, 255)
    return (on_grid - zero) * scale


def rounded_weight(weight: Tensor, precision: Precision) -> Tensor:
    """Weights ``(O, I, *)`` as a precision stores them; weights that are stored so stay what they are."""
    step, low, high = weight_grid(weight, precision)
    found: Tensor = (weight / step).round().clamp(low, high) * step
    return found


def weight_grid(weight: Tensor, precision: Precision) -> tuple[Tensor, int, int]:
    """Distance ``(O, I, *)`` of the numbers that each weight may become, and the least and largest integer times it."""
    if precision not in WEIGHT_BITS:
        largest_O = weight.abs().flatten(1).amax(dim=1).clamp(min=1e-12)
        return (largest_O / 127).reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight), -127, 127
    half = 2 ** (WEIGHT_BITS[precision] - 1)
    step_OJ1 = largest_of_blocks(in_blocks(weight)) / -half
    step_OI = torch.where(step_OJ1 == 0, 1.0, step_OJ1).expand(-1, -1, BLOCK).flatten(1)
    return step_OI[:, : weight.shape[1]], -half, half - 1


def in_blocks(weight_OI: Tensor) -> Tensor:
    """Weights ``(O, J, I)`` that share a scale, filled up with zeros."""
    outputs, inputs = weight_OI.shape
    return nn.functional.pad(weight_OI, (0, -inputs % BLOCK)).reshape(outputs, -1, BLOCK)


def largest_of_blocks(blocks_OJI: Tensor) -> Tensor:
    """The number ``(O, J, 1)`` farthest from 0 of each block, which is on its grid."""
    return blocks_OJI.gather(2, blocks_OJI.abs().argmax(dim=2, keepdim=True))
