"""Between labels and the scores that a regression learns: a rising line of straight pieces.

Legend of array suffixes: n labels or predictions, k knots, s thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MOST_KNOTS = 17
TAIL = 0.25
"""Share of the labels whose slope goes on beyond the highest and the lowest of them."""

_TINY = 1e-12
_LEAST_SLOPE = 1e-6
"""In standard deviations of labels per score: keeps the order of predictions between labels that are equal."""


@dataclass(frozen=True)
class LabelScale:
    """Maps scores to labels; strictly rising.

    Attributes:
        knots_k: Scores, ascending.
        labels_k: The labels there.
        below: Labels per score below the first knot.
        above: Labels per score above the last one.
    """

    knots_k: Floats
    labels_k: Floats
    below: float
    above: float

    @staticmethod
    def of(scores_n: Floats, labels_n: Floats) -> LabelScale:
        """The scale through quantiles of scores and labels that have the same order, scores of variance 1."""
        levels_k = np.linspace(0.0, 1.0, min(MOST_KNOTS, len(labels_n)))
        knots_k = np.quantile(scores_n, levels_k)
        labels_k = np.quantile(labels_n, levels_k) + _LEAST_SLOPE * labels_n.std() * knots_k
        least = _LEAST_SLOPE * float(labels_n.std())
        ends_22 = np.array([[0.0, TAIL], [1.0 - TAIL, 1.0]])
        rises = np.diff(np.interp(ends_22, levels_k, labels_k)).ravel()
        runs = np.diff(np.interp(ends_22, levels_k, knots_k)).ravel()
        below, above = np.maximum(rises / np.maximum(runs, _TINY), least).tolist()
        return LabelScale(knots_k, labels_k, below, above)

    def labels(self, scores: Floats) -> Floats:
        """The labels of scores."""
        labels: Floats = np.interp(scores, self.knots_k, self.labels_k)
        labels += self.below * np.minimum(scores - self.knots_k[0], 0.0)
        labels += self.above * np.maximum(scores - self.knots_k[-1], 0.0)
        return labels

    def scores(self, labels: Floats) -> Floats:
        """The scores of labels."""
        scores: Floats = np.interp(labels, self.labels_k, self.knots_k)
        scores += np.minimum(labels - self.labels_k[0], 0.0) / self.below
        scores += np.maximum(labels - self.labels_k[-1], 0.0) / self.above
        return scores

    def expected_excess(self, mean_n: Floats, std_n: Floats, thresholds_s: Floats) -> Floats:
        """What labels exceed thresholds by, expected of normally distributed scores, ``[n, s]``.

        The expectation is the integral, over all labels above the threshold, of the probability that the label is
        higher still. On a straight piece that is its slope times the same integral over scores.
        """
        scores_s, mean_n1, std_n1 = self.scores(thresholds_s), mean_n[:, None], np.maximum(std_n[:, None], _TINY)
        slopes_k = np.append(np.diff(self.labels_k) / np.maximum(np.diff(self.knots_k), _TINY), self.above)
        # What scores exceed each knot by, and labels: from the last knot down, piece by piece.
        beyond_nk = _expected_excess(mean_n1, std_n1, self.knots_k)
        pieces_nk = slopes_k * (beyond_nk - np.append(beyond_nk[:, 1:], np.zeros((len(mean_n), 1)), axis=1))
        above_nk = np.cumsum(pieces_nk[:, ::-1], axis=1)[:, ::-1]
        # The rest of the piece that a threshold lies on, and all pieces above it.
        ends_s = np.searchsorted(self.knots_k, scores_s, side="right")
        padded_nk = [np.append(part_nk, np.zeros((len(mean_n), 1)), axis=1) for part_nk in (beyond_nk, above_nk)]
        rest_ns = _expected_excess(mean_n1, std_n1, scores_s) - padded_nk[0][:, ends_s]
        excess_ns: Floats = np.append(self.below, slopes_k)[ends_s] * rest_ns + padded_nk[1][:, ends_s]
        return np.maximum(excess_ns, 0.0)


IDENTITY = LabelScale(np.zeros(1), np.zeros(1), 1.0, 1.0)
"""Scores that are labels."""


def _expected_excess(mean: Floats, std: Floats, threshold: Floats) -> Floats:
    """What a normally distributed number is expected to exceed a threshold by."""
    from scipy.special import ndtr

    above = (mean - threshold) / std
    density = np.exp(-0.5 * above**2) / np.sqrt(2.0 * np.pi)
    excess: Floats = np.maximum(std * (above * ndtr(above) + density), 0.0)
    return excess
