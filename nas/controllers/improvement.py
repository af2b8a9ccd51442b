"""By how much an evaluation is expected to enlarge the area that a front dominates.

Latency is known before an evaluation, and quality is predicted with a normal distribution of scores, which a scale maps
to quality (`nas.predictors.label_scale`). Then the expected hypervolume improvement of two objectives (M. Emmerich, K.
Giannakoglou and B. Naujoks, "Single- and multiobjective evolutionary optimization assisted by Gaussian random field
metamodels", IEEE Transactions on Evolutionary Computation 10, 2006) is a sum over the steps of the front: the width of
what a network would cover of a step, times its expected improvement on the step's quality (D. R. Jones, M. Schonlau and
W. J. Welch, "Efficient global optimization of expensive black-box functions", Journal of Global Optimization 13, 1998).

Legend of array suffixes: n candidates, s steps of the front.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.predictors.label_scale import IDENTITY, LabelScale

Floats = npt.NDArray[np.float64]

_REFRESHED = 32
"""Gains computed anew at once."""


@dataclass(frozen=True)
class Front:
    """The best quality that is known at every latency: steps that rise with latency, up to a corner.

    Attributes:
        starts_s: Latency at which each step begins, ascending; the first is minus infinity, where nothing is known.
        quality_s: Best quality on each step, ascending; the first is what counts as no quality at all.
        slowest: Latency of the corner. What is slower improves nothing.
        scale: What predictions are on. Default: quality itself.
    """

    starts_s: Floats
    quality_s: Floats
    slowest: float
    scale: LabelScale = IDENTITY

    @staticmethod
    def of(latency_n: Floats, quality_n: Floats, worst: float, slowest: float, scale: LabelScale = IDENTITY) -> Front:
        """The front of evaluated networks, within the corner of the ``worst`` quality and the ``slowest`` latency."""
        order = np.lexsort((-quality_n, latency_n))
        best_n = np.maximum.accumulate(np.concatenate([[worst], quality_n[order]]))
        is_better_n = best_n[1:] > best_n[:-1]
        return Front(
            np.concatenate([[-np.inf], latency_n[order][is_better_n]]),
            np.concatenate([[worst], best_n[1:][is_better_n]]),
            slowest,
            scale,
        )

    def widths(self, latency_n: Floats) -> Floats:
        """How much of each step lies at or above each latency, ``[n, s]``."""
        ends_s = np.minimum(np.append(self.starts_s[1:], np.inf), self.slowest)
        widths_ns: Floats = np.maximum(ends_s - np.maximum(self.starts_s, latency_n[:, None]), 0.0)
        return widths_ns

    def expected_improvement(self, latency_n: Floats, mean_n: Floats, std_n: Floats) -> Floats:
        """Expected gain in dominated area of networks with these latencies and predicted scores, ``[n]``."""
        gain_ns = self.scale.expected_excess(mean_n, std_n, self.quality_s)
        total_n: Floats = np.einsum("ns,ns->n", self.widths(latency_n), gain_ns)
        return total_n

    def with_point(self, latency: float, quality: float) -> Front:
        """The front with one more network on it."""
        latency_s, quality_s = np.append(self.starts_s[1:], latency), np.append(self.quality_s[1:], quality)
        return Front.of(latency_s, quality_s, float(self.quality_s[0]), self.slowest, self.scale)


def best_batch(front: Front, latency_n: Floats, mean_n: Floats, std_n: Floats, count: int) -> npt.NDArray[np.int64]:
    """Up to ``count`` candidates that together promise most, best first.

    They are taken one by one, each as if those before it had turned out as predicted (D. Ginsbourger, R. Le Riche and
    L. Carraro, "Kriging is well-suited to parallelize optimization", 2010: the Kriging believer), with lazily computed
    gains (M. Minoux, "Accelerated greedy algorithms for maximizing submodular set functions", 1978).
    """
    chosen: list[int] = []
    gain_n = front.expected_improvement(latency_n, mean_n, std_n)
    is_stale_n = np.zeros(len(gain_n), dtype=np.bool_)
    while len(chosen) < min(count, len(gain_n)):
        best = int(np.argmax(gain_n))
        if is_stale_n[best]:
            # A larger front leaves less to gain, so a gain that is not the largest need not be known exactly.
            stale = np.flatnonzero(is_stale_n)
            rows = stale[np.argsort(-gain_n[stale], kind="stable")[:_REFRESHED]]
            gain_n[rows] = front.expected_improvement(latency_n[rows], mean_n[rows], std_n[rows])
            is_stale_n[rows] = False
            continue
        chosen.append(best)
        gain_n[best] = -np.inf
        is_stale_n[:] = np.isfinite(gain_n)
        front = front.with_point(float(latency_n[best]), float(front.scale.labels(mean_n[best])))
    return np.array(chosen, dtype=np.int64)
