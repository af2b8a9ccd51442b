"""Clipped weights: each block's range is narrowed to where rounding loses least.

The number of a block that is farthest from 0 sets its grid. Where that is far from the others, a finer grid that cuts
it off has the smaller mean squared error, most of all in 2 bits. Percentiles (Li et al., "RepQ-ViT", ICCV 2023, arXiv
2212.08254) make no sense of 32 numbers, so shares of the farthest one are tried; activations keep their whole range.

Legend of tensor suffixes: C colours, H and W rows and columns, O outputs, J blocks of a row of weights, I inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from latency_tables.onnx_quantised import WEIGHT_BITS, Precision
from nas.quantisation.fake import in_blocks, largest_of_blocks, rounded_weight
from nas.quantisation.watching import own_weights

SHARES = tuple(share / 20 for share in range(20, 7, -1))
"""Ranges that are tried, as shares of the whole one."""


@torch.no_grad()
def clip(network: nn.Module, image_1CHW: Tensor, precisions: Mapping[str, Precision]) -> None:
    """Clip the weights in place of layers whose weights alone are quantised.

    Args:
        network: In evaluation mode.
        image_1CHW: An image as it takes them.
        precisions: What layers compute in, by their names.
    """
    for name, (weight_OI, _) in own_weights(network, image_1CHW).items():
        precision = precisions.get(name, "fp32")
        if precision in WEIGHT_BITS:
            weight_OI.copy_(_clipped(weight_OI.detach(), precision))


def _clipped(weight_OI: Tensor, precision: Precision) -> Tensor:
    whole_OJI = in_blocks(weight_OI)
    largest_OJ1, half = largest_of_blocks(whole_OJI), 2 ** (WEIGHT_BITS[precision] - 1)
    best_OJI, least_OJ1 = whole_OJI, torch.full_like(largest_OJ1, torch.inf)
    for share in SHARES:
        end_OJ1 = share * largest_OJ1
        other_OJ1 = -end_OJ1 * (half - 1) / half  # so that the farthest number stays on its side of 0
        tried_OJI = whole_OJI.clamp(torch.minimum(end_OJ1, other_OJ1), torch.maximum(end_OJ1, other_OJ1))
        rounded_OJI = in_blocks(rounded_weight(tried_OJI.flatten(1), precision))
        error_OJ1 = (rounded_OJI - whole_OJI).square().sum(dim=2, keepdim=True)
        best_OJI = torch.where(error_OJ1 < least_OJ1, tried_OJI, best_OJI)
        least_OJ1 = torch.minimum(error_OJ1, least_OJ1)
    return best_OJI.flatten(1)[:, : weight_OI.shape[1]]
