"""AZ-NAS: expressivity, progressivity and trainability of the feature maps between blocks.

Source: Lee and Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024, arXiv
2403.19232. The fourth proxy, complexity, is the number of MACs (score `macs`); `combine_ranks` joins the four over a
population.

Feature maps are the sums that residual connections make, which in a transformer are the outputs of its attention and
feed-forward parts, as the authors take for AutoFormer; they are found by watching additions, in any network.

Deviations: the initialisation is the network's own. Trainability leaves out what has no effect at initialisation (a
branch whose last norm starts at zero) and neighbours whose positions do not correspond; where the resolution falls by
a whole factor, positions of the larger map are folded into its channels, as the authors do.

Legend of tensor suffixes: B batch, C channels, H and W rows and columns, R rows (positions of images).
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from nas.errors import EvaluationError
from nas.scores.base import Score
from nas.scores.observer import Residual
from nas.scores.untrained import UntrainedNetwork


def expressivity(network: UntrainedNetwork) -> float:
    """The sum over feature maps of the entropy of the eigenvalues of their channels' covariance."""
    return float(sum(_entropies(network)))


def progressivity(network: UntrainedNetwork) -> float:
    """The smallest growth of expressivity from one feature map to the next."""
    entropies = _entropies(network)
    if len(entropies) < 2:
        raise EvaluationError("there is one residual connection, expected two or more")
    return float(min(after - before for before, after in itertools.pairwise(entropies)))


def trainability(network: UntrainedNetwork) -> float:
    """The mean over neighbouring feature maps of ``2 - s - 1 / s``, where ``s`` is the spectral norm of the Jacobian.

    It is estimated by random signs sent backwards; the score is 0 at best, where gradients keep their size.
    """
    scores = []
    for step, neighbours in enumerate(itertools.pairwise(_residuals(network))):
        estimate = _jacobian(neighbours, network.seed + step)
        if estimate is not None:
            spectral = float(torch.linalg.matrix_norm(estimate, ord=2))
            scores.append(2 - spectral - 1 / (spectral + 1e-6))
    if not scores:
        raise EvaluationError(
            "between no two neighbouring residual connections is there a branch that has an effect at initialisation"
            " and keeps positions in place"
        )
    return float(np.mean(scores))


def combine_ranks(parts: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """AZ-NAS's score of every network of a population: the sum over proxies of ``log(rank / n)``, the best rank n.

    Args:
        parts: Proxies by networks ``[k, n]``, higher is better; the authors take expressivity, progressivity (not for
            networks of constant width), trainability and MACs. Equal values share their mean rank; a network with NaN
            in any part has NaN.

    Returns:
        One score per network ``[n]``; 0 at best.
    """
    from scipy.stats import rankdata

    parts_kn = np.asarray(parts, dtype=np.float64)
    usable_n = ~np.isnan(parts_kn).any(axis=0)
    combined_n = np.full(parts_kn.shape[1], np.nan)
    ranks_kn = rankdata(parts_kn[:, usable_n], axis=1)
    combined_n[usable_n] = np.log(ranks_kn / max(int(usable_n.sum()), 1)).sum(axis=0)
    return combined_n


def _residuals(network: UntrainedNetwork) -> list[tuple[Residual, ...]]:
    """The feature maps, each as its two halves."""
    first, second = network.forward.halves
    if not first.residuals:
        raise EvaluationError("the network has no residual connection, where feature maps are compared")
    return list(zip(first.residuals, second.residuals, strict=True))


def _entropies(network: UntrainedNetwork) -> list[float]:
    entropies = []
    for halves in _residuals(network):
        features_RC = torch.cat([_channels_last(half.tensor.detach(), half.channel_axis) for half in halves])
        features_RC = features_RC.flatten(0, -2)
        features_RC = features_RC - features_RC.mean(dim=0)
        covariance_CC = (features_RC.T @ features_RC).double() / len(features_RC)
        variance_C = torch.linalg.eigvalsh(covariance_CC).clamp(min=0)
        share_C = variance_C / variance_C.sum()
        entropies.append(float(torch.special.entr(share_C).sum()))
    return entropies


def _jacobian(neighbours: tuple[tuple[Residual, ...], ...], seed: int) -> Tensor | None:
    """Mean outer product, over positions, of random signs at the output and what they become at the input."""
    generator = torch.Generator("cpu").manual_seed(seed)
    total, rows = None, 0
    for source, target in zip(*neighbours, strict=True):
        signs = torch.randint(2, target.tensor.shape, generator=generator, device="cpu") * 2.0 - 1
        signs = signs.to(target.tensor)
        (pulled,) = torch.autograd.grad(target.tensor, source.tensor, signs, retain_graph=True, allow_unused=True)
        if pulled is None or (pulled.shape == signs.shape and torch.equal(pulled, signs)):
            return None
        matched = _match(_channels_last(pulled, source.channel_axis), _channels_last(signs, target.channel_axis))
        if matched is None:
            return None
        in_RC, out_RC = matched
        total = in_RC.T @ out_RC + (0 if total is None else total)
        rows += len(out_RC)
    return None if total is None else total / rows


def _match(source: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """Both, ``(B, ..., C)``, as matrices of positions by channels, the source folded to the target's resolution.

    None where positions do not correspond.
    """
    if source.shape[:-1].numel() != target.shape[:-1].numel():
        source_map, target_map = _as_map(source), _as_map(target)
        if source_map is None or target_map is None:
            return None
        factor, rest = divmod(source_map.shape[1], target_map.shape[1])
        if rest or source_map.shape[2] != factor * target_map.shape[2]:
            return None
        source = _fold(source_map, factor)
    return source.flatten(0, -2), target.flatten(0, -2)


def _as_map(features: Tensor) -> Tensor | None:
    """Features ``(B, ..., C)`` as ``(B, H, W, C)``; tokens only where their number is a square."""
    if features.ndim == 4:
        return features
    side = math.isqrt(features.shape[1])
    return features.reshape(len(features), side, side, -1) if side * side == features.shape[1] else None


def _fold(map_BHWC: Tensor, factor: int) -> Tensor:
    """``(B, H, W, C)`` to ``(B, H / factor, W / factor, C * factor * factor)``."""
    return F.pixel_unshuffle(map_BHWC.movedim(-1, 1), factor).movedim(1, -1)


def _channels_last(tensor: Tensor, channel_axis: int) -> Tensor:
    return tensor.movedim(channel_axis, -1)


EXPRESSIVITY = Score("az-expressivity", expressivity, "Lee and Ham, CVPR 2024")
PROGRESSIVITY = Score("az-progressivity", progressivity, "Lee and Ham, CVPR 2024")
TRAINABILITY = Score("az-trainability", trainability, "Lee and Ham, CVPR 2024")
