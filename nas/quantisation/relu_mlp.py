"""ReLU in place of GELU, with the layers around it fitted to what they gave: another architecture, and a faster one.

Source: Wu et al., "APHQ-ViT: Post-Training Quantization with Average Perturbation Hessian Based Reconstruction for
Vision Transformers", CVPR 2025, arXiv 2504.02508, its MLP reconstruction, by mean squared error.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from torch import Tensor, nn

from nas.quantisation.reconstruction import IMAGES, Call, calls_of, fit

ITERATIONS = 800
RATE = 1e-3


def relu_mlp(
    network: nn.Module,
    images_BCHW: Tensor,
    iterations: int = ITERATIONS,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Replace the GELUs of a network in place.

    Args:
        network: In evaluation mode.
        images_BCHW: Training images as it takes them, of which the first 512 are looked at.
        iterations: Steps for each pair of layers.
        seed: Seed of the order of images.
        tell: Called with how many modules are done of how many.

    Returns:
        Names of the modules that had a GELU of their own.
    """
    original, images_BCHW = copy.deepcopy(network), images_BCHW[:IMAGES]
    found = gelus_of(network)
    for number, (path, places) in enumerate(found.items()):
        tell(number, len(found))
        module = network.get_submodule(path)
        for place in places:
            setattr(module, place, nn.ReLU())
        targets, calls = calls_of(original, path, images_BCHW), calls_of(network, path, images_BCHW)
        parameters = list(module.parameters())
        if targets and calls and parameters:

            def run(number: int, module: nn.Module = module, calls: list[Call] = calls) -> Tensor:
                output: Tensor = module(calls[number].x, *calls[number].others, **calls[number].options)
                return output

            outputs = [call.output for call in targets]
            fit(run, outputs, parameters, iterations=iterations, rate=RATE, seed=seed)
    return list(found)


def gelus_of(network: nn.Module) -> dict[str, list[str]]:
    """Where a network has PyTorch's GELU or one of timm's: names of modules, and of their own attributes."""
    return {
        name: places
        for name, module in network.named_modules()
        if (places := [place for place, child in module.named_children() if "GELU" in type(child).__name__])
    }
