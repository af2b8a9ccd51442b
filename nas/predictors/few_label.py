"""Predicting the quality of all architectures from that of a few, with intervals.

A Gaussian process (`nas.predictors.regression`) on the features of `nas.predictors.encoding`. Labels enter as normal
scores of their ranks: a network that failed to train, or an accuracy that saturates, does not bend the others.
Intervals are widened by what leaving labels out shows.

Legend of array suffixes: n architectures, k knots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.errors import UsageError
from nas.predictors.encoding import EncodedArchitectures
from nas.predictors.regression import Regression

Floats = npt.NDArray[np.float64]

LEAST_LABELS = 5
FOLDS = 5
RELEARNED_LABELS = 64
"""Up to so many labels scales are learned anew for each fold, since what is left out still changes them."""

_KNOTS = 17


@dataclass(frozen=True)
class Prediction:
    """Predicted quality of n architectures, in the labels' unit.

    Attributes:
        mean_n: ``[n]``; orders the architectures.
        std_n: Standard deviation of what an evaluation would give, its noise included; ``[n]``.
    """

    mean_n: Floats
    std_n: Floats

    def interval(self, coverage: float = 0.8) -> tuple[Floats, Floats]:
        """Ends of the interval that holds an evaluation's result with probability ``coverage``."""
        from scipy.stats import norm

        reach_n = norm.ppf(0.5 + coverage / 2) * self.std_n
        return self.mean_n - reach_n, self.mean_n + reach_n


class FewLabelPredictor:
    """Learns from evaluated architectures and predicts the others. Deterministic."""

    def fit(self, encoded: EncodedArchitectures, labels_n: npt.ArrayLike) -> FewLabelPredictor:
        """Learn from evaluated architectures; higher labels are better, in whatever unit.

        Raises:
            UsageError: Fewer than five labels, all labels or all architectures alike, or a label that is not finite.
        """
        labels = _checked(encoded, labels_n)
        self._target = _NormalScores(labels)
        self._regression = Regression(encoded, self._target.scores_n)
        self._inflation = _inflation(encoded, self._target.scores_n, self._regression)
        return self

    def predict(self, encoded: EncodedArchitectures) -> Prediction:
        """Predict architectures that were encoded as the labelled ones were."""
        mean_n, std_n = self._regression.predict(encoded)
        return Prediction(*self._target.restore(mean_n, self._inflation * std_n))


def cross_validated(encoded: EncodedArchitectures, labels_n: npt.ArrayLike, *, seed: int = 0) -> Prediction:
    """Each architecture predicted from the labels of the others, left out in five random parts.

    Raises:
        UsageError: As `FewLabelPredictor.fit`, for the labels of four parts.
    """
    labels = _checked(encoded, labels_n)
    mean_n, std_n = np.empty(len(labels)), np.empty(len(labels))
    for held_out in _parts(len(labels), seed):
        predictor = FewLabelPredictor().fit(encoded[~held_out], labels[~held_out])
        prediction = predictor.predict(encoded[held_out])
        mean_n[held_out], std_n[held_out] = prediction.mean_n, prediction.std_n
    return Prediction(mean_n, std_n)


def _checked(encoded: EncodedArchitectures, labels_n: npt.ArrayLike) -> Floats:
    labels, count = np.asarray(labels_n, dtype=np.float64), len(encoded)
    if labels.shape != (count,):
        raise UsageError(f"few-label predictor: found labels of shape {labels.shape}, expected one for each of {count}")
    if not np.isfinite(labels).all():
        raise UsageError("few-label predictor: found a label that is not finite", "leave that architecture out")
    if count < LEAST_LABELS or np.ptp(labels) == 0.0:
        found = f"{count} labels" if count < LEAST_LABELS else f"{count} labels that are all {labels[0]:g}"
        raise UsageError(f"few-label predictor: found {found}, expected at least {LEAST_LABELS} that differ")
    if not encoded.widths:
        raise UsageError("few-label predictor: found architectures that are all alike, expected some that differ")
    return labels


def _parts(count: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """Masks ``[n]`` of five random parts of about equal size."""
    part_n = np.random.default_rng(seed).permutation(count) % FOLDS
    return [part_n == part for part in range(FOLDS)]


def _inflation(encoded: EncodedArchitectures, scores_n: Floats, regression: Regression) -> float:
    """How many times wider than believed the errors on held-out labels are."""
    surprises_n = regression.surprises_n
    if len(scores_n) <= RELEARNED_LABELS:
        surprises_n = np.empty(len(scores_n))
        for held_out in _parts(len(scores_n), seed=0):
            fold = Regression(encoded[~held_out], scores_n[~held_out], start=regression)
            mean_n, std_n = fold.predict(encoded[held_out])
            surprises_n[held_out] = (scores_n[held_out] - mean_n) / std_n
    return float(np.sqrt(np.mean(surprises_n**2)))


class _NormalScores:
    """Labels as normal scores of their ranks, and back by straight lines between quantiles."""

    def __init__(self, labels_n: Floats) -> None:
        from scipy.stats import norm, rankdata

        scores_n = norm.ppf((rankdata(labels_n) - 0.5) / len(labels_n))
        self._mean, self._spread = float(scores_n.mean()), float(scores_n.std())
        self.scores_n: Floats = (scores_n - self._mean) / self._spread
        levels_k = np.linspace(0.0, 1.0, min(_KNOTS, len(labels_n)))
        self._knots_k = np.quantile(self.scores_n, levels_k)
        slope = float(labels_n.std())
        # The slight slope keeps the order of predictions between quantiles that are equal.
        self._labels_k = np.quantile(labels_n, levels_k) + 1e-6 * slope * self._knots_k
        self._slope = slope

    def restore(self, mean_n: Floats, std_n: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation in the labels' unit."""
        return self._labels(mean_n), 0.5 * (self._labels(mean_n + std_n) - self._labels(mean_n - std_n))

    def _labels(self, scores_n: Floats) -> Floats:
        inside_n = np.clip(scores_n, self._knots_k[0], self._knots_k[-1])
        labels_n: Floats = np.interp(inside_n, self._knots_k, self._labels_k) + self._slope * (scores_n - inside_n)
        return labels_n
