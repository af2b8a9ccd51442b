"""Predicting the quality of all architectures from that of a few, with intervals.

A Gaussian process whose covariance is a weighted sum of linear kernels, one per group of features of
`nas.predictors.encoding`; that is Bayesian linear regression in which each group has a scale of its own (C. E.
Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine Learning", MIT Press 2006, chapters 2 and 5). The
scales and the noise are found by marginal likelihood under wide log-normal priors, so few labels lean on what is shared
along the depth and many labels on each place by itself. Labels enter as normal scores of their ranks: a network that
failed to train, or an accuracy that saturates, does not bend the others. Intervals are widened by what five-fold
cross-validation of the labels shows.

Legend of array suffixes: n architectures, f features, g groups, r rank of the labelled features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.errors import UsageError
from nas.predictors.encoding import EncodedArchitectures

Floats = npt.NDArray[np.float64]

LEAST_LABELS = 5
TUNING_LABELS = 128
"""Scales are learned on so many labels at most; the regression itself uses all."""
FOLDS = 5

_PRIOR_CENTRE, _PRIOR_WIDTH = -2.0, 3.0
"""Of the logarithm of each group's scale, in units of the labels' variance."""
_NOISE_CENTRE, _NOISE_WIDTH = float(np.log(0.3)), 1.0
_KNOTS = 17
_TINY = 1e-9
_CHUNK = 2048
"""Rows predicted at once, so that they stay in the cache."""


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
        self._regression = _Regression(encoded, self._target.scores_n)
        self._inflation = _inflation(encoded, self._target.scores_n)
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


def _inflation(encoded: EncodedArchitectures, scores_n: Floats) -> float:
    """How many times wider than believed the errors on held-out labels are."""
    surprises = []
    for held_out in _parts(len(scores_n), seed=0):
        mean_n, std_n = _Regression(encoded[~held_out], scores_n[~held_out]).predict(encoded[held_out])
        surprises.append((scores_n[held_out] - mean_n) / std_n)
    return float(np.sqrt(np.mean(np.concatenate(surprises) ** 2)))


class _Regression:
    """Bayesian linear regression of scores of mean 0 and variance 1 on grouped features."""

    def __init__(self, encoded: EncodedArchitectures, scores_n: Floats) -> None:
        self._offset = float(scores_n.mean())
        scores_n = scores_n - self._offset
        self._centre_f = encoded.features_nf.mean(axis=0)
        centred_nf = encoded.features_nf - self._centre_f
        unit_f = _units(centred_nf, encoded.widths)
        scales_g, self._noise = _learn_scales(centred_nf * unit_f, encoded.widths, scores_n)
        self._unit_f = unit_f * np.sqrt(np.repeat(scales_g, encoded.widths))

        left_nr, singular_r, right_rf = np.linalg.svd(centred_nf * self._unit_f, full_matrices=False)
        shrunk_r = singular_r**2 + self._noise
        self._slope_f = right_rf.T @ (left_nr.T @ scores_n * singular_r / shrunk_r)
        self._known_fr = right_rf.T * (singular_r / np.sqrt(shrunk_r))

    def predict(self, encoded: EncodedArchitectures) -> tuple[Floats, Floats]:
        """Mean and standard deviation of scores, noise included, ``[n]`` each."""
        mean_n, variance_n = np.empty(len(encoded)), np.empty(len(encoded))
        for start in range(0, len(encoded), _CHUNK):
            rows = slice(start, start + _CHUNK)
            features_nf = (encoded.features_nf[rows] - self._centre_f) * self._unit_f
            projected_nr = features_nf @ self._known_fr
            prior_n, known_n = (np.einsum("nf,nf->n", each, each) for each in (features_nf, projected_nr))
            mean_n[rows] = features_nf @ self._slope_f + self._offset
            variance_n[rows] = np.maximum(prior_n - known_n, 0.0) + self._noise
        return mean_n, np.sqrt(variance_n)


def _units(centred_nf: Floats, widths: tuple[int, ...]) -> Floats:
    """Factors ``[f]`` that give every group the same mean squared norm, 1."""
    squares_f = (centred_nf**2).mean(axis=0)
    norms = [float(group_f.sum()) for group_f in np.split(squares_f, np.cumsum(widths)[:-1])]
    return np.repeat([1.0 / np.sqrt(norm) if norm > _TINY else 0.0 for norm in norms], widths)


def _learn_scales(scaled_nf: Floats, widths: tuple[int, ...], scores_n: Floats) -> tuple[Floats, float]:
    """The scale of each group ``[g]`` and the noise that make labels and priors together most likely."""
    from scipy.linalg import lapack
    from scipy.optimize import minimize

    if len(scores_n) > TUNING_LABELS:
        drawn_n = np.random.default_rng(0).choice(len(scores_n), TUNING_LABELS, replace=False)
        scaled_nf, scores_n = scaled_nf[drawn_n], scores_n[drawn_n]
    groups = np.split(scaled_nf, np.cumsum(widths)[:-1], axis=1)
    kernels_gnn = np.stack([*(group_nf @ group_nf.T for group_nf in groups), np.eye(len(scores_n))])
    centre_g = np.array([_PRIOR_CENTRE] * len(groups) + [_NOISE_CENTRE])
    width_g = np.array([_PRIOR_WIDTH] * len(groups) + [_NOISE_WIDTH])

    def surprise(logs_g: Floats) -> tuple[float, Floats]:
        scales_g = np.exp(logs_g)
        lower_nn = np.linalg.cholesky(np.tensordot(scales_g, kernels_gnn, axes=1))
        inverse_nn, _ = lapack.dpotri(lower_nn, lower=1)
        inverse_nn = np.tril(inverse_nn) + np.tril(inverse_nn, -1).T
        weights_n = inverse_nn @ scores_n
        fit_g = kernels_gnn.reshape(len(logs_g), -1) @ (np.outer(weights_n, weights_n) - inverse_nn).ravel()
        distance_g = (logs_g - centre_g) / width_g
        value = 0.5 * scores_n @ weights_n + np.log(np.diag(lower_nn)).sum() + 0.5 * distance_g @ distance_g
        return float(value), -0.5 * scales_g * fit_g + distance_g / width_g

    bounds = [(-12.0, 6.0)] * len(groups) + [(-6.0, 2.0)]
    found = minimize(surprise, centre_g, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
    scales_g = np.exp(found.x)
    return scales_g[:-1], float(scales_g[-1])


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
