"""Clipped weights: each block's range is narrowed to where rounding loses least.

The number of a block that is farthest from 0 sets its grid. Where that is far from the others, a finer grid that cuts
it off may lose less. Errors of weights are weighted by the mean square of what they multiply. Percentiles (Li et al.,
"RepQ-ViT", ICCV 2023, arXiv 2212.08254) make no sense of 32 numbers, so shares of the farthest one are tried;
activations keep their whole range.

Legend of tensor suffixes: C colours, H and W rows and columns, O outputs, J blocks of a row of weights, I inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latency_tables.onnx_quantised import WEIGHT_BITS, Precision
from nas.quantisation.fake import in_blocks, largest_of_blocks, rounded_weight
from nas.quantisation.watching import LayerMode, own_weights

SHARES = tuple(share / 20 for share in range(20, 7, -1))
"""Ranges that are tried, as shares of the whole one."""


@torch.no_grad()
def clip(network: nn.Module, images_BCHW: Tensor, precisions: Mapping[str, Precision]) -> None:
    """Clip the weights in place of linear layers whose weights alone are quantised.

    Args:
        network: In evaluation mode.
        images_BCHW: Images as it takes them, which are computed at once.
        precisions: What layers compute in, by their names.
    """
    squares_I: dict[str, Tensor] = {}

    class Squares(LayerMode):
        def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
            if precisions.get(name, "fp32") in WEIGHT_BITS:
                squares_I[name] = x.square().flatten(0, -2).mean(dim=0)
            return super().layer(name, function, x, weight, *others, **options)

    Squares(network).run(network, images_BCHW)
    for name, (weight_OI, _) in own_weights(network, images_BCHW[:1]).items():
        if name in squares_I:
            weight_OI.copy_(_clipped(weight_OI.detach(), squares_I[name], precisions[name]))


def _clipped(weight_OI: Tensor, square_I: Tensor, precision: Precision) -> Tensor:
    whole_OJI, square_1JI = in_blocks(weight_OI), in_blocks(square_I[None])
    largest_OJ1, half = largest_of_blocks(whole_OJI), 2 ** (WEIGHT_BITS[precision] - 1)
    best_OJI, least_OJ1 = whole_OJI, torch.full_like(largest_OJ1, torch.inf)
    for share in SHARES:
        end_OJ1 = share * largest_OJ1
        other_OJ1 = -end_OJ1 * (half - 1) / half  # so that the farthest number stays on its side of 0
        tried_OJI = whole_OJI.clamp(torch.minimum(end_OJ1, other_OJ1), torch.maximum(end_OJ1, other_OJ1))
        rounded_OJI = in_blocks(rounded_weight(tried_OJI.flatten(1), precision))
        error_OJ1 = (square_1JI * (rounded_OJI - whole_OJI).square()).sum(dim=2, keepdim=True)
        best_OJI = torch.where(error_OJ1 < least_OJ1, tried_OJI, best_OJI)
        least_OJ1 = torch.minimum(error_OJ1, least_OJ1)
    return best_OJI.flatten(1)[:, : weight_OI.shape[1]]
