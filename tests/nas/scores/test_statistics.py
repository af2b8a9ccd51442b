"""Rank statistics against scipy, brute force and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.scores import rank_statistics as statistics
from nas.scores.rank_statistics import (
    kendall_tau,
    mean_interval,
    partial_rank_correlation,
    rank_correlation,
    repeatability,
)


@pytest.fixture
def pairs() -> np.ndarray:
    """Two correlated lists with ties."""
    generator = np.random.default_rng(3)
    first = generator.integers(0, 12, 40)
    return np.stack([first, first + generator.integers(-4, 5, 40)]).astype(float)


def test_tau_equals_scipy(pairs: np.ndarray) -> None:
    expected = kendalltau(*pairs)[0]
    assert kendall_tau(*pairs) == pytest.approx(expected)
    found = rank_correlation(*pairs)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    assert found.count == 40


def test_every_resample_equals_scipy(pairs: np.ndarray) -> None:
    """Weighting the matrix of signs is the same as repeating the items."""
    weights = statistics._weightings(40, 25, seed=1)
    found = statistics._tau(statistics._signs(pairs[0]), statistics._signs(pairs[1]), weights)
    for tau, weight in zip(found, weights, strict=True):
        repeated = np.repeat(pairs, weight.astype(int), axis=1)
        assert tau == pytest.approx(kendalltau(*repeated)[0])


def test_interval_covers_the_truth() -> None:
    """Of normal pairs with correlation 0.5, tau is 1/3; about 95 % of the intervals must hold it."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        first = generator.standard_normal(40)
        second = 0.5 * first + math.sqrt(0.75) * generator.standard_normal(40)
        found = rank_correlation(first, second, resamples=400)
        held += found.low <= 1 / 3 <= found.high
    assert 0.90 <= held / 200 <= 0.99


def test_partial_tau_is_kendalls_formula(pairs: np.ndarray) -> None:
    given = np.random.default_rng(1).standard_normal(40) + pairs[0]
    t12, t13, t23 = kendalltau(*pairs)[0], kendalltau(pairs[0], given)[0], kendalltau(pairs[1], given)[0]
    expected = (t12 - t13 * t23) / math.sqrt((1 - t13**2) * (1 - t23**2))
    found = partial_rank_correlation(*pairs, given)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_what_size_explains_leaves_nothing() -> None:
    generator = np.random.default_rng(2)
    params = generator.standard_normal(300)
    score, accuracy = (params + generator.standard_normal(300) for _ in range(2))
    assert rank_correlation(score, accuracy).low > 0.2
    assert abs(partial_rank_correlation(score, accuracy, params).value) < 0.15
    assert math.isnan(partial_rank_correlation(params**3, accuracy, params).value)


def test_perfect_order_and_constants() -> None:
    values = np.arange(12.0)
    assert rank_correlation(values, values**3).value == 1.0
    assert rank_correlation(values, -values).value == -1.0
    constant = rank_correlation(values, np.ones(12))
    assert math.isnan(constant.value)
    assert math.isnan(constant.low)
    assert math.isnan(rank_correlation([], []).value)
    assert math.isnan(rank_correlation([1.0], [2.0]).value)
    assert math.isnan(rank_correlation([1.0, 2.0], [1.0, 2.0]).low)


def test_same_seed_same_interval(pairs: np.ndarray) -> None:
    assert rank_correlation(*pairs, seed=5) == rank_correlation(*pairs, seed=5)
    assert rank_correlation(*pairs, seed=5) != rank_correlation(*pairs, seed=6)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="expected two equal lists"):
        rank_correlation([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="not finite"):
        rank_correlation([1.0, float("nan")], [1.0, 2.0])


def test_repeatability_is_the_mean_over_pairs(pairs: np.ndarray) -> None:
    third = np.arange(40.0)
    rows = [*pairs, third]
    expected = np.mean([kendall_tau(rows[i], rows[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert repeatability(rows) == pytest.approx(expected)
    assert math.isnan(repeatability(rows[:1]))


def test_mean_interval_shrinks_with_the_count() -> None:
    generator = np.random.default_rng(0)
    few, many = (mean_interval(generator.standard_normal(count).tolist()) for count in (10, 1000))
    assert few.low < few.value < few.high
    assert many.high - many.low < 0.3 * (few.high - few.low)
