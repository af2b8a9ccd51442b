"""NASWOT: how differently images switch the activations on and off.

Source: Mellor et al., "Neural Architecture Search without Training", ICML 2021, arXiv 2006.04647. Each image has a
binary code: which activation functions get a positive input. The kernel counts, for each pair of images, the units
that agree; the score is the logarithm of its determinant.

Deviations: defined for ReLU, here for every activation function (GELU, SiLU, hard-swish, tanh, ...), all of which
change their regime at zero; images are noise unless images are given.

Legend of tensor suffixes: B images, U units.
"""

from __future__ import annotations

import torch

from nas.scores.activation_ranks import activations_of
from nas.scores.base import Score
from nas.scores.untrained import UntrainedNetwork


def naswot(network: UntrainedNetwork) -> float:
    """The logarithm of the determinant of the images' kernel; minus infinity where two images have the same code."""
    images = len(network.images)
    kernel_BB = torch.zeros(images, images, dtype=torch.float64)
    for calls in activations_of(network):
        code_BU = torch.cat([(call.before > 0).flatten(1) for call in calls]).float()
        off_BU = 1 - code_BU
        kernel_BB += (code_BU @ code_BU.T + off_BU @ off_BU.T).cpu()
    return float(torch.linalg.slogdet(kernel_BB).logabsdet)


NASWOT = Score("naswot", naswot, "Mellor et al., ICML 2021")
