"""Corrected biases: what rounding adds to a layer's output on average is taken off its bias, front to back.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, arXiv
1906.04721, with images in place of statistics of norms.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, O outputs of a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas.quantisation.fake import FakeQuantisation
from nas.quantisation.watching import LayerMode, own_weights


@torch.no_grad()
def bias_correction(network: nn.Module, original: nn.Module, images_BCHW: Tensor, mode: FakeQuantisation) -> None:
    """Correct the biases of quantised layers in place; layers without one are left alone.

    Args:
        network: In evaluation mode.
        original: The network in fp32.
        images_BCHW: Images as it takes them, which are computed at once.
        mode: What its layers compute in, and what they read.
    """
    wanted_O: dict[str, Tensor] = {}
    biases = {name: bias for name, (_, bias) in own_weights(network, images_BCHW[:1]).items() if bias is not None}

    class Means(LayerMode):
        def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
            result = super().layer(name, function, x, weight, *others, **options)
            wanted_O[name] = _mean(result, function)
            return result

    class Corrects(FakeQuantisation):
        def layer(self, name: str, function: Any, x: Tensor, weight: Tensor, *others: Any, **options: Any) -> Tensor:
            result = super().layer(name, function, x, weight, *others, **options)
            if name not in biases or self.precisions.get(name, "fp32") == "fp32":
                return result
            missing_O = wanted_O[name] - _mean(result, function)
            biases[name].add_(missing_O)
            return result + (missing_O if function.__name__ == "linear" else missing_O.reshape(-1, *[1] * (x.ndim - 2)))

    Means(original).run(original, images_BCHW)
    Corrects(network, mode.precisions, mode.ranges).run(network, images_BCHW)


def _mean(output: Tensor, function: Any) -> Tensor:
    """Mean ``(O,)`` of each channel that a layer gives."""
    channels = output if function.__name__ == "linear" else output.movedim(1, -1)
    return channels.flatten(0, -2).mean(dim=0)
