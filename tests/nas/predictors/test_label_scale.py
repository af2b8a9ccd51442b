"""Between labels and scores: there and back, and what labels are expected to exceed."""

from __future__ import annotations

import numpy as np
import pytest

from nas.controllers.improvement import Front, best_batch
from nas.predictors.label_scale import IDENTITY, LabelScale

CURVED = LabelScale(np.array([-1.0, 0.0, 0.5, 2.0]), np.array([0.0, 1.0, 3.0, 3.3]), below=4.0, above=0.1)
SCORES = np.array([-2.5, -1.0, -0.3, 0.0, 0.2, 0.5, 1.7, 2.0, 4.0])


def test_labels_and_scores_are_each_others_inverse() -> None:
    labels = CURVED.labels(SCORES)
    assert labels.tolist() == pytest.approx([-6.0, 0.0, 0.7, 1.0, 1.8, 3.0, 3.24, 3.3, 3.5])
    assert CURVED.scores(labels) == pytest.approx(SCORES)
    assert IDENTITY.labels(SCORES) == pytest.approx(SCORES)


def test_excess_is_the_mean_excess_of_drawn_labels() -> None:
    thresholds = np.array([-9.0, -1.0, 0.0, 0.5, 2.9, 3.2, 3.3, 3.6])
    mean, std = np.array([-3.0, 0.3, 0.4, 2.5]), np.array([0.5, 0.05, 1.2, 0.8])
    draws = mean[:, None] + std[:, None] * np.random.default_rng(0).standard_normal(200_000)
    labels = CURVED.labels(draws)
    simulated = np.stack([np.maximum(labels - threshold, 0.0).mean(axis=1) for threshold in thresholds], axis=1)
    assert CURVED.expected_excess(mean, std, thresholds) == pytest.approx(simulated, abs=0.01)


def test_certain_labels_exceed_by_what_they_exceed() -> None:
    thresholds = np.linspace(-7.0, 4.0, 40)
    excess = CURVED.expected_excess(SCORES, np.zeros(len(SCORES)), thresholds)
    expected = np.maximum(CURVED.labels(SCORES)[:, None] - thresholds, 0.0)
    assert excess == pytest.approx(expected, abs=1e-9)


def test_scale_of_labels_runs_through_them_and_on_at_their_ends() -> None:
    scores = np.linspace(-2.0, 2.0, 201)
    labels = np.where(scores < 0, 10 * scores, 0.1 * scores)
    scale = LabelScale.of(scores, labels)
    assert scale.labels(scores) == pytest.approx(labels, abs=0.05)
    assert (scale.below, scale.above) == pytest.approx((10.0, 0.1), rel=1e-3)
    assert float(scale.labels(np.array([4.0]))[0]) == pytest.approx(0.4, abs=0.01)


def test_equal_labels_keep_the_order_of_scores() -> None:
    scale = LabelScale.of(np.repeat([-1.0, 1.0], 20), np.repeat([0.0, 1.0], 20))
    assert (np.diff(scale.labels(np.linspace(-3.0, 3.0, 50))) > 0).all()
    assert np.isfinite(scale.expected_excess(np.zeros(3), np.ones(3), np.array([-1.0, 0.0, 0.5, 2.0]))).all()


def test_promises_are_made_on_the_scale_of_the_front() -> None:
    """What could be better by little is worth less than what could be better by much, though both are as unsure."""
    qualities = CURVED.labels(np.array([-0.5, 1.9]))
    front = Front.of(np.array([1.0, 5.0]), qualities, worst=-1.0, slowest=6.0, scale=CURVED)
    latency, mean, std = np.array([1.0, 5.0]), np.array([-0.5, 1.9]), np.array([0.4, 0.4])
    gains = front.expected_improvement(latency, mean, std)
    assert gains[0] > 20 * gains[1] > 0
    plain = Front.of(np.array([1.0, 5.0]), mean, worst=-2.0, slowest=6.0)
    assert best_batch(front, latency, mean, std, 2).tolist() == [0, 1]
    assert plain.expected_improvement(latency, mean, std)[0] < 8 * plain.expected_improvement(latency, mean, std)[1]
