"""Gaussian process regression on grouped features: linear in each group, and local in all of them.

The covariance is a weighted sum of kernels (C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine
Learning", MIT Press 2006, chapters 2 and 5). Each group of features has a linear one: that alone is Bayesian linear
regression in which each group has a scale of its own. Two squared exponentials of the distance in all features add what
is not linear: where an architecture was good, those that differ from it in little are good as well, whatever their
choices are worth elsewhere. Scales and noise are found by marginal likelihood under wide log-normal priors, so few
labels lean on what is shared along the depth and many labels on each place by itself and on the neighbourhood.

Legend of array suffixes: n labelled architectures, m others, f features, k kernels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.predictors.encoding import EncodedArchitectures

Floats = npt.NDArray[np.float64]

TUNING_LABELS = 128
"""Scales are learned on so many labels at most; the regression itself uses all."""
REACH = 0.4
"""Squared length of the wider local kernel, as a share of the mean squared distance of two labelled architectures."""
SHARPER = 4
"""By how much that of the narrower one is smaller; it is then the wider kernel squared twice."""

_PRIOR_CENTRE, _PRIOR_WIDTH = -2.0, 3.0
"""Of the logarithm of each kernel's scale, in units of the labels' variance."""
_NOISE_CENTRE, _NOISE_WIDTH = float(np.log(0.3)), 1.0
_TINY = 1e-9
_CHUNK = 512
"""Rows predicted at once, so that they stay in the cache."""


class Regression:
    """Learns scores of mean 0 and variance 1 of architectures that differ. Deterministic.

    Args:
        encoded: What was labelled.
        scores_n: The score of each, ``[n]``.
        start: A regression of nearly the same architectures, whose scales are where the search for scales starts.

    Attributes:
        unit_f: Factors that the centred features are multiplied by, ``[f]``.
        scales_k: Scales of the kernels, those of the groups first and then the two local ones, ``[k]``.
        noise: Variance of what no kernel explains.
        surprises_n: How far each score lies from what the others predict, in standard deviations of that prediction,
            noise included, ``[n]`` (Rasmussen and Williams, section 5.4.2).
    """

    def __init__(self, encoded: EncodedArchitectures, scores_n: Floats, start: Regression | None = None) -> None:
        self._offset = float(scores_n.mean())
        scores_n = scores_n - self._offset
        self._widths = encoded.widths
        self._centre_f = encoded.features_nf.mean(axis=0)
        centred_nf = encoded.features_nf - self._centre_f
        self.unit_f = _units(centred_nf, encoded.widths)
        self._features_nf = centred_nf * self.unit_f
        # Two labelled architectures are this far apart on average, since every group that varies has mean norm 1.
        self._distance = 2.0 * max(float((self._features_nf**2).sum(axis=1).mean()), _TINY)
        self.scales_k, self.noise = self._learned_scales(scores_n, start)

        covariance_nn = self._covariance(self._features_nf)
        covariance_nn[np.diag_indices_from(covariance_nn)] += self.noise
        self._inverse_nn = np.linalg.inv(np.linalg.cholesky(covariance_nn))
        self._inverse_nn = self._inverse_nn.T @ self._inverse_nn
        self._weights_n = self._inverse_nn @ scores_n
        self.surprises_n: Floats = self._weights_n / np.sqrt(np.diag(self._inverse_nn))

    def predict(self, encoded: EncodedArchitectures) -> tuple[Floats, Floats]:
        """Mean and standard deviation of scores, noise included, ``[m]`` each."""
        mean_m, variance_m = np.empty(len(encoded)), np.empty(len(encoded))
        linear_f = np.repeat(self.scales_k[: len(self._widths)], self._widths)
        local = float(self.scales_k[len(self._widths) :].sum())
        for start in range(0, len(encoded), _CHUNK):
            rows = slice(start, start + _CHUNK)
            features_mf = (encoded.features_nf[rows] - self._centre_f) * self.unit_f
            known_mn = self._covariance(features_mf)
            prior_m = features_mf**2 @ linear_f + local
            mean_m[rows] = known_mn @ self._weights_n + self._offset
            variance_m[rows] = prior_m - np.einsum("mn,mn->m", known_mn @ self._inverse_nn, known_mn)
        return mean_m, np.sqrt(np.maximum(variance_m, 0.0) + self.noise)

    def left_out(self, scores_n: Floats, inflation: float = 1.0) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each learned score given the others, noise included, ``[n]`` each."""
        std_n = 1.0 / np.sqrt(np.diag(self._inverse_nn))
        return scores_n - self.surprises_n * std_n, inflation * std_n

    def covariance(self, encoded: EncodedArchitectures) -> Floats:
        """Of scores with those of the labelled architectures, without noise, ``[m, n]``."""
        return self._covariance((encoded.features_nf - self._centre_f) * self.unit_f)

    def _covariance(self, features_mf: Floats) -> Floats:
        groups = len(self._widths)
        linear_f = np.repeat(self.scales_k[:groups], self._widths)
        covariance_mn: Floats = (features_mf * linear_f) @ self._features_nf.T
        wide_mn, narrow_mn = self._local(features_mf, self._features_nf)
        covariance_mn += self.scales_k[groups] * wide_mn
        covariance_mn += self.scales_k[groups + 1] * narrow_mn
        return covariance_mn

    def _local(self, features_mf: Floats, features_nf: Floats) -> tuple[Floats, Floats]:
        """The wider and the narrower local kernel, ``[m, n]`` each."""
        squared_mn = features_mf @ features_nf.T
        squared_mn *= -2.0
        squared_mn += (features_mf**2).sum(axis=1)[:, None] + (features_nf**2).sum(axis=1)
        np.maximum(squared_mn, 0.0, out=squared_mn)
        squared_mn /= -2.0 * REACH * self._distance
        wide_mn: Floats = np.exp(squared_mn, out=squared_mn)
        return wide_mn, np.square(np.square(wide_mn))

    def _learned_scales(self, scores_n: Floats, start: Regression | None) -> tuple[Floats, float]:
        """The scale of each kernel ``[k]`` and the noise that make labels and priors together most likely."""
        features_nf = self._features_nf
        if len(scores_n) > TUNING_LABELS:
            drawn_n = np.random.default_rng(0).choice(len(scores_n), TUNING_LABELS, replace=False)
            features_nf, scores_n = features_nf[drawn_n], scores_n[drawn_n]
        groups = np.split(features_nf, np.cumsum(self._widths)[:-1], axis=1)
        kernels = [*(group_nf @ group_nf.T for group_nf in groups), *self._local(features_nf, features_nf)]
        logs_k = None if start is None else np.log(np.append(start.scales_k, start.noise))
        return _most_likely_scales(np.stack(kernels), scores_n, logs_k)


def _units(centred_nf: Floats, widths: tuple[int, ...]) -> Floats:
    """Factors ``[f]`` that give every group the same mean squared norm, 1."""
    squares_f = (centred_nf**2).mean(axis=0)
    norms = [float(group_f.sum()) for group_f in np.split(squares_f, np.cumsum(widths)[:-1])]
    return np.repeat([1.0 / np.sqrt(norm) if norm > _TINY else 0.0 for norm in norms], widths)


def _most_likely_scales(kernels_knn: Floats, scores_n: Floats, start_k: Floats | None) -> tuple[Floats, float]:
    """The scales ``[k]`` of kernels and the noise that make scores and priors together most likely.

    ``start_k`` are the logarithms of scales and noise to start from, else they are the prior's.
    """
    from scipy.linalg import lapack
    from scipy.optimize import minimize

    kernels_knn = np.concatenate([kernels_knn, np.eye(len(scores_n))[None]])
    centre_k = np.full(len(kernels_knn), _PRIOR_CENTRE)
    width_k = np.full(len(kernels_knn), _PRIOR_WIDTH)
    centre_k[-1], width_k[-1] = _NOISE_CENTRE, _NOISE_WIDTH

    def surprise(logs_k: Floats) -> tuple[float, Floats]:
        scales_k = np.exp(logs_k)
        lower_nn = np.linalg.cholesky(np.tensordot(scales_k, kernels_knn, axes=1))
        inverse_nn, _ = lapack.dpotri(lower_nn, lower=1)
        inverse_nn = np.tril(inverse_nn) + np.tril(inverse_nn, -1).T
        weights_n = inverse_nn @ scores_n
        fit_k = kernels_knn.reshape(len(logs_k), -1) @ (np.outer(weights_n, weights_n) - inverse_nn).ravel()
        distance_k = (logs_k - centre_k) / width_k
        value = 0.5 * scores_n @ weights_n + np.log(np.diag(lower_nn)).sum() + 0.5 * distance_k @ distance_k
        return float(value), -0.5 * scales_k * fit_k + distance_k / width_k

    bounds = [(-12.0, 6.0)] * (len(centre_k) - 1) + [(-6.0, 2.0)]
    found = minimize(
        surprise,
        centre_k if start_k is None else start_k,
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"maxiter": 60},
    )
    scales_k = np.exp(found.x)
    return scales_k[:-1], float(scales_k[-1])
