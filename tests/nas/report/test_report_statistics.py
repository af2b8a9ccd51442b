"""Progress and correlation numbers of the report, against plain re-computation."""

import numpy as np
import pytest

from nas.objectives.pareto import hypervolume
from nas.report.statistics import hypervolume_curve, rank_correlation


def test_hypervolume_curve_equals_recomputation() -> None:
    generator = np.random.default_rng(0)
    latency, objective = generator.random(60) * 9 + 3, generator.random(60) - 4
    curve = hypervolume_curve(latency, objective)
    costs = np.stack([latency - latency.min(), objective.max() - objective], axis=1)
    costs /= costs.max(axis=0)
    expected = [hypervolume(costs[: count + 1], (1.0, 1.0)) for count in range(60)]
    assert np.allclose(curve, expected)
    assert (np.diff(curve) >= 0).all()


def test_hypervolume_of_one_network_best_in_both_is_one() -> None:
    curve = hypervolume_curve(np.array([5.0, 4.0, 1.0]), np.array([0.1, 0.2, 0.9]))
    assert curve[-1] == pytest.approx(1.0)
    assert curve[0] == 0.0


def test_hypervolume_without_networks() -> None:
    assert hypervolume_curve(np.empty(0), np.empty(0)).shape == (0,)


def test_rank_correlation_of_equal_and_opposite_order() -> None:
    values = [float(value) for value in range(30)]
    same = rank_correlation(values, [value**3 for value in values])
    opposite = rank_correlation(values, [-value for value in values])
    assert same is not None
    assert opposite is not None
    assert (same.kendall.value, same.spearman.value) == pytest.approx((1.0, 1.0))
    assert (opposite.kendall.value, opposite.spearman.value) == pytest.approx((-1.0, -1.0))
    assert same.count == 30


def test_interval_covers_the_value_and_narrows_with_more_networks() -> None:
    generator = np.random.default_rng(1)
    first = generator.normal(size=400)
    second = first + generator.normal(size=400)
    few, many = (
        rank_correlation(first[:40].tolist(), second[:40].tolist()),
        rank_correlation(first.tolist(), second.tolist()),
    )
    assert few is not None
    assert many is not None
    for found in (few, many):
        assert found.kendall.low < found.kendall.value < found.kendall.high
        assert found.spearman.low < found.spearman.value < found.spearman.high
    assert many.kendall.high - many.kendall.low < 0.5 * (few.kendall.high - few.kendall.low)


@pytest.mark.parametrize(("first", "second"), [([1.0] * 9, range(9)), (range(9), [2.0] * 9), (range(4), range(4))])
def test_no_correlation_can_be_told(first: list[float], second: list[float]) -> None:
    assert rank_correlation(first, second) is None


def test_spearman_agrees_with_scipy() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(2)
    first, second = generator.integers(0, 9, 50).tolist(), generator.integers(0, 9, 50).tolist()
    found = rank_correlation(first, second)
    assert found is not None
    assert found.spearman.value == pytest.approx(spearmanr(first, second)[0])
