"""Predicting the quality of all architectures from that of a few, with intervals.

A Gaussian process (`nas.predictors.regression`) on the features of `nas.predictors.encoding`. Labels enter as normal
scores of their ranks: a network that failed to train, or an accuracy that saturates, does not bend the others. Where
noise is about the same for all labels, distances between labels are worth keeping, though: ranks stretch what is
crowded, noise included. So they can be tried as well, and are taken where they predict labels that were left out
better. Intervals are widened by what leaving labels out shows.

Legend of array suffixes: n architectures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.errors import UsageError
from nas.predictors.encoding import EncodedArchitectures
from nas.predictors.label_scale import LabelScale
from nas.predictors.regression import Regression

Floats = npt.NDArray[np.float64]

LEAST_LABELS = 5
FOLDS = 5
RELEARNED_LABELS = 64
"""Up to so many labels scales are learned anew for each fold, since what is left out still changes them."""
WORST_SURPRISE = 4.0
"""In standard deviations: no single label decides how labels enter."""

_TINY = 1e-12


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
    """Learns from evaluated architectures and predicts the others. Deterministic.

    Args:
        by_rank: Labels enter by their ranks alone; else as they are where that predicts them better.

    Attributes:
        scale: Once fitted, maps the regression's scores to labels.
    """

    scale: LabelScale

    def __init__(self, by_rank: bool = True) -> None:
        self._by_rank = by_rank

    def fit(self, encoded: EncodedArchitectures, labels_n: npt.ArrayLike) -> FewLabelPredictor:
        """Learn from evaluated architectures; higher labels are better, in whatever unit.

        Raises:
            UsageError: Fewer than five labels, all labels or all architectures alike, or a label that is not finite.
        """
        labels = _checked(encoded, labels_n)
        scores_n = _normal_scores(labels)
        best = _Fit(encoded, labels, scores_n, LabelScale.of(scores_n, labels))
        if not self._by_rank:
            as_they_are = _Fit(encoded, labels, *_standard_scores(labels))
            best = min(best, as_they_are, key=lambda fit: fit.surprise)
        self.scale, self._regression, self._inflation = best.scale, best.regression, best.inflation
        return self

    def predict(self, encoded: EncodedArchitectures) -> Prediction:
        """Predict architectures that were encoded as the labelled ones were."""
        return Prediction(*_on_labels(self.scale, *self.predict_scores(encoded)))

    def predict_scores(self, encoded: EncodedArchitectures) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the normally distributed scores that `scale` maps to labels, ``[n]`` each."""
        mean_n, std_n = self._regression.predict(encoded)
        return mean_n, self._inflation * std_n


class _Fit:
    """A regression of scores.

    Attributes:
        inflation: How many times wider than believed the errors on held-out labels are.
        surprise: The negative logarithm of the density of each label given the others, and of no unit, on average.
    """

    def __init__(self, encoded: EncodedArchitectures, labels_n: Floats, scores_n: Floats, scale: LabelScale) -> None:
        self.scale = scale
        self.regression = Regression(encoded, scores_n)
        self.inflation = _inflation(encoded, scores_n, self.regression)
        mean_n, std_n = _on_labels(scale, *self.regression.left_out(scores_n, self.inflation))
        std_n = np.maximum(std_n, _TINY)
        distance_n = np.minimum(np.abs(labels_n - mean_n) / std_n, WORST_SURPRISE)
        self.surprise = float(np.mean(np.log(std_n) + 0.5 * distance_n**2))


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


def _on_labels(scale: LabelScale, mean_n: Floats, std_n: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation in the labels' unit, ``[n]`` each."""
    return scale.labels(mean_n), 0.5 * (scale.labels(mean_n + std_n) - scale.labels(mean_n - std_n))


def _normal_scores(labels_n: Floats) -> Floats:
    """Normal scores of the ranks of labels, of mean 0 and variance 1, ``[n]``."""
    from scipy.stats import norm, rankdata

    scores_n = norm.ppf((rankdata(labels_n) - 0.5) / len(labels_n))
    standard_n: Floats = (scores_n - scores_n.mean()) / scores_n.std()
    return standard_n


def _standard_scores(labels_n: Floats) -> tuple[Floats, LabelScale]:
    """Labels of mean 0 and variance 1, ``[n]``, and the way back."""
    mean, spread = float(labels_n.mean()), float(labels_n.std())
    return (labels_n - mean) / spread, LabelScale(np.zeros(1), np.array([mean]), spread, spread)
