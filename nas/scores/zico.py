"""ZiCo: how large gradients are compared with how much they vary between batches.

Source: Li et al., "ZiCo: Zero-shot NAS via Inverse Coefficient of Variation on Gradients", ICLR 2023, arXiv
2301.11300. Sum over layers of ``log(sum over weights of E|gradient| / std(gradient))``, with expectation and standard
deviation over two batches, as the authors take; weights whose gradient does not vary are left out.

Deviation: images are noise and labels random unless images are given.
"""

from __future__ import annotations

import math

import torch

from nas.errors import EvaluationError
from nas.scores.base import Score
from nas.scores.untrained import UntrainedNetwork


def zico(network: UntrainedNetwork) -> float:
    """The summed logarithm of the inverse coefficients of variation."""
    first, second = network.gradients
    score, layers = 0.0, 0
    for name, gradient in first.items():
        # Of two numbers the mean magnitude is (|a| + |b|) / 2 and the standard deviation |a - b| / 2.
        magnitude, difference = gradient.abs() + second[name].abs(), (gradient - second[name]).abs()
        ratio = float(torch.where(difference > 0, magnitude / difference, 0.0).sum())
        if ratio > 0:
            score += math.log(ratio)
            layers += 1
    if not layers:
        raise EvaluationError("no gradient varies between batches")
    return score


ZICO = Score("zico", zico, "Li et al., ICLR 2023")
