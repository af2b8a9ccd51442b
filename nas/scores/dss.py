"""DSS: synaptic diversity of attention and synaptic saliency of everything else.

Source: Zhou et al., "Training-free Transformer Architecture Search", CVPR 2022, arXiv 2203.12217. With parameters
replaced by their absolute values and an image of ones: for weights of attention the product of the nuclear norms of
weight and gradient, for all others the sum of ``|weight * gradient|``; the score is the sum of both.

Deviations: computed in float64. Which layers compute attention is found by watching where a softmax or a fused
attention is called, so that any network will do; one without attention has the saliency alone. Kernels of
convolutions inside attention are matrices of output channels by everything else.
"""

from __future__ import annotations

from nas.scores.base import Score
from nas.scores.spectra import nuclear_norm
from nas.scores.untrained import UntrainedNetwork


def dss(network: UntrainedNetwork) -> float:
    """Diversity of attention plus saliency of the rest; no images are used."""
    linearised = network.linearised(keep_norms=True)
    score = 0.0
    for name, weight in linearised.weights.items():
        gradient = linearised.gradients[name]
        if linearised.is_attention(name):
            score += nuclear_norm(weight.flatten(1)) * nuclear_norm(gradient.flatten(1))
        else:
            score += float((weight * gradient).abs().sum())
    return score


DSS = Score("dss", dss, "Zhou et al., CVPR 2022")
