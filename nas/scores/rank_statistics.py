"""Rank correlation of paired numbers: Kendall's tau-b, given a third quantity, with bootstrap intervals.

Tau-b compares the order of all pairs of items, so it is a ratio of sums over a matrix of signs. Leaving items out or
drawing them repeatedly only weights rows and columns of that matrix, hence one matrix product evaluates all bootstrap
resamples at once, exactly and with ties: an item drawn twice is tied with itself.

Legend of array suffixes: n items, r bootstrap resamples or other weightings of the items, k repeated measurements.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 1000
_TINY = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A rank correlation between ``count`` pairs.

    Attributes:
        value: In [-1, 1]; NaN where it is not defined because one side is constant.
        low: Lower end of the 95 % interval over items; NaN where the items are too few or too much alike for one.
        high: Upper end.
        count: Number of items.
    """

    value: float
    low: float
    high: float
    count: int


def kendall_tau(first_n: npt.ArrayLike, second_n: npt.ArrayLike) -> float:
    """Kendall's tau-b of two lists of equal length; NaN where one is constant or holds fewer than two items."""
    from scipy.stats import kendalltau

    first_n, second_n = _paired(first_n, second_n)
    return float(kendalltau(first_n, second_n)[0]) if len(first_n) > 1 else float("nan")


def rank_correlation(
    first_n: npt.ArrayLike, second_n: npt.ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Kendall's tau-b of two lists, with a bootstrap interval over the items.

    The interval is bias-corrected and accelerated (B. Efron, "Better bootstrap confidence intervals", Journal of the
    American Statistical Association 82, 1987). Memory and time grow with the square of the number of items.

    Args:
        first_n: Finite numbers ``[n]``.
        second_n: Finite numbers ``[n]``, paired with the first.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        ValueError: The lists differ in length or hold something that is not finite.
    """
    first_n, second_n = _paired(first_n, second_n)
    weights_rn = _weightings(len(first_n), resamples, seed)
    return _estimate(_tau(_signs(first_n), _signs(second_n), weights_rn), len(first_n))


def partial_rank_correlation(
    first_n: npt.ArrayLike,
    second_n: npt.ArrayLike,
    given_n: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Kendall's partial tau of two lists with a third held fixed, with a bootstrap interval as `rank_correlation`.

    What the first says about the second beyond what the third says already: (t12 - t13 t23) / sqrt((1 - t13²)(1 -
    t23²)) (M. G. Kendall, "Partial rank correlation", Biometrika 32, 1942). It is not defined, and NaN, where the third
    list orders the items exactly as one of the others.

    Raises:
        ValueError: As `rank_correlation`.
    """
    first_n, second_n = _paired(first_n, second_n)
    given_n, _ = _paired(given_n, second_n)
    weights_rn = _weightings(len(first_n), resamples, seed)
    signs = [_signs(values_n) for values_n in (first_n, second_n, given_n)]
    tau_12, tau_13, tau_23 = (_tau(a, b, weights_rn) for a, b in itertools.combinations(signs, 2))
    free_r = (1.0 - tau_13**2) * (1.0 - tau_23**2)
    partial_r = np.full(len(weights_rn), np.nan)
    defined_r = free_r > _TINY
    partial_r[defined_r] = (tau_12 - tau_13 * tau_23)[defined_r] / np.sqrt(free_r[defined_r])
    return _estimate(partial_r, len(first_n))


def repeatability(values_kn: npt.ArrayLike) -> float:
    """How well a noisy quantity repeats itself: the mean tau-b over all pairs of measurements ``[k, n]``.

    NaN with fewer than two measurements.
    """
    rows = list(np.asarray(values_kn, dtype=np.float64))
    taus = [kendall_tau(first, second) for first, second in itertools.combinations(rows, 2)]
    return float(np.mean(taus)) if taus else float("nan")


def mean_interval(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of independent repetitions with its 95 % percentile bootstrap interval."""
    values_n = np.asarray(values, dtype=np.float64)
    drawn_rn = np.random.default_rng(seed).integers(0, len(values_n), (resamples, len(values_n)))
    low, high = np.quantile(values_n[drawn_rn].mean(axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values_n.mean()), float(low), float(high), len(values_n))


def _paired(first_n: npt.ArrayLike, second_n: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(first_n, dtype=np.float64), np.asarray(second_n, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"rank correlation: found shapes {first.shape} and {second.shape}, expected two equal lists")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("rank correlation: found a value that is not finite")
    return first, second


def _weightings(count: int, resamples: int, seed: int) -> Floats:
    """How often each item occurs ``[1 + n + r, n]``: in the data, with each item left out in turn, in the resamples."""
    if count == 0:
        return np.ones((1, 0))
    drawn_rn = np.random.default_rng(seed).multinomial(count, np.full(count, 1.0 / count), size=resamples)
    return np.concatenate([np.ones((1, count)), 1.0 - np.eye(count), drawn_rn])


def _signs(values_n: Floats) -> Floats:
    signs_nn: Floats = np.sign(values_n[:, None] - values_n[None, :])
    return signs_nn


def _tau(first_nn: Floats, second_nn: Floats, weights_rn: Floats) -> Floats:
    """Tau-b ``[r]`` under each weighting of the items; NaN where one side is constant."""

    def total(matrix_nn: Floats) -> Floats:
        sums_r: Floats = np.einsum("rn,rn->r", weights_rn @ matrix_nn, weights_rn)
        return sums_r

    untied_r = total(first_nn**2) * total(second_nn**2)
    tau_r = np.full(len(weights_rn), np.nan)
    np.divide(total(first_nn * second_nn), np.sqrt(untied_r), out=tau_r, where=untied_r > 0)
    clipped_r: Floats = np.clip(tau_r, -1.0, 1.0)
    return clipped_r


def _estimate(values_r: Floats, count: int) -> Estimate:
    """From the values under all of `_weightings`, the first being the data itself."""
    value, left_out_n, resampled_r = values_r[0], values_r[1 : count + 1], values_r[count + 1 :]
    resampled_r = resampled_r[np.isfinite(resampled_r)]
    if not np.isfinite(value):
        return Estimate(float("nan"), float("nan"), float("nan"), count)
    if not len(resampled_r) or not np.isfinite(left_out_n).all():
        return Estimate(float(value), float("nan"), float("nan"), count)
    low, high = np.quantile(resampled_r, _corrected_levels(float(value), left_out_n, resampled_r))
    return Estimate(float(value), float(low), float(high), count)


def _corrected_levels(value: float, left_out_n: Floats, resampled_r: Floats) -> Floats:
    """The quantiles to read off, corrected for the bias (half of the ties counts as below) and the acceleration."""
    from scipy.stats import norm

    size = len(resampled_r)
    below = ((resampled_r < value).sum() + 0.5 * (resampled_r == value).sum()) / size
    bias = norm.ppf(np.clip(below, 0.5 / size, 1 - 0.5 / size))
    pull_n = left_out_n.mean() - left_out_n
    spread = float((pull_n**2).sum())
    acceleration = float((pull_n**3).sum()) / (6.0 * spread**1.5) if spread > _TINY else 0.0
    shifted = bias + norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    levels: Floats = norm.cdf(bias + shifted / (1.0 - acceleration * shifted))
    return levels
