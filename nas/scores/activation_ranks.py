"""How many dimensions activations fill: NEAR and W-PCA, and what they are measured on.

Sources: Husistein et al., "NEAR: A Training-Free Pre-Estimator of Machine Learning Model Performance", ICLR 2025,
arXiv 2408.08776; Wang, "W-PCA Based Gradient-Free Proxy for Efficient Search of Lightweight Language Models", ICLR
2025, arXiv 2504.15983.

Deviations: both look at the calls of activation functions, which in a transformer are the hidden layers of its
feed-forward parts; at most `SAMPLED_ROWS` positions of a layer, drawn evenly at random from all images, are
decomposed, so that wide layers stay affordable. W-PCA was defined for language models; here positions take the place
of words.

Legend of tensor suffixes: R rows (positions of images), C channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nas.errors import EvaluationError
from nas.scores.base import Score
from nas.scores.observer import Activation
from nas.scores.spectra import effective_rank, principal_components
from nas.scores.untrained import UntrainedNetwork

SAMPLED_ROWS = 1024
EXPLAINED_VARIANCE = 0.99


def near(network: UntrainedNetwork) -> float:
    """The sum over activation functions of the effective ranks of their inputs and of their outputs."""
    score = 0.0
    for calls in activations_of(network):
        before_RC, after_RC = (
            torch.cat([tensor.flatten(0, -2) for tensor in tensors])
            for tensors in ([call.before for call in calls], [call.after for call in calls])
        )
        rows = _sample(len(before_RC), min(before_RC.shape[1], SAMPLED_ROWS), network.seed).to(before_RC.device)
        score += effective_rank(before_RC[rows]) + effective_rank(after_RC[rows])
    return score


def w_pca(network: UntrainedNetwork) -> float:
    """Parameters times the sum, over activation functions, of the principal components that hold 99 % of the variance
    of their inputs."""
    components = 0
    for calls in activations_of(network):
        before_RC = torch.cat([call.before.flatten(0, -2) for call in calls])
        rows = _sample(len(before_RC), SAMPLED_ROWS, network.seed).to(before_RC.device)
        components += principal_components(before_RC[rows], EXPLAINED_VARIANCE)
    return float(network.graph.params) * components


def activations_of(network: UntrainedNetwork) -> Iterator[tuple[Activation, ...]]:
    """Every call of an activation function, as the calls in the passes of both halves of the images.

    Raises:
        EvaluationError: There is none.
    """
    halves = [half.activations for half in network.forward.halves]
    if not halves[0]:
        raise EvaluationError("the network calls no activation function, expected ReLU, GELU, SiLU or the like")
    return zip(*halves, strict=True)


def _sample(rows: int, wanted: int, seed: int) -> Tensor:
    """Positions of up to ``wanted`` rows, in random order."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randperm(rows, generator=generator, device="cpu")[:wanted]


NEAR = Score("near", near, "Husistein et al., ICLR 2025")
W_PCA = Score("w-pca", w_pca, "Wang, ICLR 2025")
