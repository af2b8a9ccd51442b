"""The numbers behind the report's progress and correlation sections.

Legend of array suffixes: n evaluated networks, f of them on the front so far, r
bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.objectives.pareto import hypervolume

Floats = npt.NDArray[np.float64]

RESAMPLES = 400
CONFIDENCE = 0.95


def hypervolume_curve(latency_n: Floats, objective_n: Floats) -> Floats:
    """The hypervolume after each evaluation, ``[n]``.

    Latency is minimised, the objective maximised; both are scaled so that the worst value that occurs is 1 and the
    best is 0, and the reference point is the corner where both are worst. A value of 1 would be one network that is
    best in both.
    """
    costs_n2 = np.stack([_unit_range(latency_n), _unit_range(-objective_n)], axis=1)
    curve_n = np.zeros(len(costs_n2))
    front_f2, volume = costs_n2[:0], 0.0
    for position, point_2 in enumerate(costs_n2):
        if not (front_f2 <= point_2).all(axis=1).any():
            beaten_f = (front_f2 >= point_2).all(axis=1)
            front_f2 = np.concatenate([front_f2[~beaten_f], point_2[None]])
            volume = hypervolume(front_f2, (1.0, 1.0))
        curve_n[position] = volume
    return curve_n


def _unit_range(values_n: Floats) -> Floats:
    if not len(values_n):
        return values_n
    spread = float(np.ptp(values_n))
    if spread == 0.0:
        return np.zeros_like(values_n)
    scaled: Floats = (values_n - values_n.min()) / spread
    return scaled


def share_interval(right: int, count: int) -> tuple[float, float]:
    """The two ends of Wilson's 95 % interval of a share of ``count`` images."""
    from scipy.stats import binomtest

    found = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def difference_interval(first: float, second: float, counts: tuple[int, int]) -> tuple[float, float]:
    """The two ends of Newcombe's 95 % interval of the second share less the first.

    The images of the two count as different ones. Where they are the same the interval is usually wider than it must
    be, since networks tend to fail on the same images.

    Args:
        first: A share in [0, 1].
        second: Another one.
        counts: The number of images of each.
    """
    (low_1, high_1), (low_2, high_2) = (
        share_interval(round(share * count), count) for share, count in zip((first, second), counts, strict=True)
    )
    difference = second - first
    return (
        difference - float(np.hypot(second - low_2, high_1 - first)),
        difference + float(np.hypot(high_2 - second, first - low_1)),
    )


@dataclass(frozen=True)
class Correlation:
    """A rank correlation with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RankCorrelation:
    """Kendall's tau-b and Spearman's rho between two lists of ``count`` values."""

    kendall: Correlation
    spearman: Correlation
    count: int


def rank_correlation(first_n: Sequence[float], second_n: Sequence[float], seed: int = 0) -> RankCorrelation | None:
    """Rank correlation of two paired lists; None where one is constant or there are fewer than five pairs."""
    from scipy.stats import kendalltau

    pairs_2n = np.array([first_n, second_n], dtype=np.float64)
    count = pairs_2n.shape[1]
    if count < 5 or (np.ptp(pairs_2n, axis=1) == 0).any():
        return None
    drawn_rn = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    samples_2rn = np.concatenate([pairs_2n[:, None], pairs_2n[:, drawn_rn]], axis=1)  # the first one is the data itself
    samples_2rn = samples_2rn[:, (np.ptp(samples_2rn, axis=2) > 0).all(axis=0)]
    kendall_r = np.array([kendalltau(first, second)[0] for first, second in zip(*samples_2rn, strict=True)])
    return RankCorrelation(_with_interval(kendall_r), _with_interval(_spearman(samples_2rn)), count)


def _spearman(samples_2rn: Floats) -> Floats:
    from scipy.stats import rankdata

    ranks_2rn = rankdata(samples_2rn, axis=2)
    first_rn, second_rn = ranks_2rn - ranks_2rn.mean(axis=2, keepdims=True)
    scale_r = np.sqrt((first_rn**2).sum(axis=1) * (second_rn**2).sum(axis=1))
    correlation_r: Floats = (first_rn * second_rn).sum(axis=1) / scale_r
    return correlation_r


def _with_interval(values_r: Floats) -> Correlation:
    low, high = np.quantile(values_r[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Correlation(float(values_r[0]), float(low), float(high))
