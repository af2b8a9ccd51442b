"""SNIP and the norm of gradients: how much the first step of training would do.

Sources: Lee et al., "SNIP: Single-shot network pruning based on connection sensitivity", ICLR 2019, arXiv 1810.02340;
both as scores of architectures: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021, arXiv
2101.08134.

Deviations: images are noise and labels random unless images are given; the loss is the mean over two halves of the
images, between which batch norms share no statistics, so that ZiCo can use the same pass. Weights are those of
convolutions and linear layers.
"""

from __future__ import annotations

from torch import Tensor

from nas.scores.base import Score
from nas.scores.untrained import UntrainedNetwork


def snip(network: UntrainedNetwork) -> float:
    """The sum over weights of ``|weight * gradient|``."""
    weights = network.forward.weights
    return sum(
        float((weights[name].detach() * gradient).abs().sum()) for name, gradient in _mean_gradients(network).items()
    )


def gradient_norm(network: UntrainedNetwork) -> float:
    """The sum over layers of the Euclidean norm of the weights' gradient."""
    return sum(float(gradient.norm()) for gradient in _mean_gradients(network).values())


def _mean_gradients(network: UntrainedNetwork) -> dict[str, Tensor]:
    first, second = network.gradients
    return {name: (gradient + second[name]) / 2 for name, gradient in first.items()}


SNIP = Score("snip", snip, "Lee et al., ICLR 2019")
GRADIENT_NORM = Score("grad-norm", gradient_norm, "Abdelfattah et al., ICLR 2021")
