"""A score that prefers large gradients, whatever they are good for."""

from __future__ import annotations

from nas.scores.base import Score
from nas.scores.untrained import UntrainedNetwork


def largest_gradient(network: UntrainedNetwork) -> float:
    return max(float(gradient.abs().max()) for half in network.gradients for gradient in half.values())


LARGEST_GRADIENT = Score("largest-gradient", largest_gradient, "made up")
