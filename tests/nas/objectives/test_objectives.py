"""Fronts, volume and knee against brute force and Optuna."""

from __future__ import annotations

import math

import numpy as np
import optuna
import pytest

from nas.objectives.pareto import Costs, hypervolume, knee, pareto_mask


def brute_force_mask(costs: Costs) -> np.ndarray:
    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        return bool((a <= b).all() and (a < b).any())

    return np.array(
        [not np.isnan(row).any() and not any(dominates(other, row) for other in costs) for row in costs], dtype=bool
    )


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("levels", [3, 1000])
def test_front_equals_brute_force(columns: int, levels: int) -> None:
    generator = np.random.default_rng(columns * levels)
    for count in (0, 1, 2, 60):
        costs = generator.integers(0, levels, size=(count, columns)).astype(np.float64)
        costs[generator.random(count) < 0.1, 0] = np.nan
        assert np.array_equal(pareto_mask(costs), brute_force_mask(costs))


def test_front_equals_that_of_optuna() -> None:
    costs = np.random.default_rng(1).normal(size=(80, 2))
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.add_trials([optuna.trial.create_trial(values=row.tolist()) for row in costs])
    assert sorted(trial.number for trial in study.best_trials) == np.flatnonzero(pareto_mask(costs)).tolist()


def test_equal_points_stay_together_and_infinity_is_a_cost() -> None:
    costs = np.array([[1.0, 2.0], [1.0, 2.0], [math.inf, 1.0], [2.0, math.nan], [1.0, 3.0]])
    assert pareto_mask(costs).tolist() == [True, True, True, False, False]


def test_hypervolume_equals_counting_cells() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        costs = generator.integers(0, 12, size=(8, 2)).astype(np.float64)
        cells = [any(first <= x and second <= y for first, second in costs) for x in range(10) for y in range(10)]
        assert hypervolume(costs, (10, 10)) == sum(cells)


def test_hypervolume_of_nothing_inside_is_zero() -> None:
    assert hypervolume(np.empty((0, 2)), (1, 1)) == 0
    assert hypervolume(np.array([[1.0, 0.0], [math.nan, 0.0], [0.0, 5.0]]), (1, 1)) == 0
    assert hypervolume(np.array([[0.0, 0.0], [math.nan, -5.0]]), (2, 3)) == 6


def test_knee_is_farthest_below_the_line_between_the_ends() -> None:
    costs = np.array([[1.0, -10.0], [2.0, -50.0], [3.0, -60.0], [10.0, -70.0]])
    assert knee(costs) == 2
    assert knee(costs * [1000, 0.001]) == 2


def test_knee_without_a_bend_is_the_end_with_the_lower_second_cost() -> None:
    assert knee(np.array([[1.0, -1.0], [2.0, -2.0]])) == 1
    assert knee(np.array([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])) == 2
    assert knee(np.array([[5.0, 5.0]])) == 0
    with pytest.raises(ValueError, match="at least one, all of them finite"):
        knee(np.empty((0, 2)))
    with pytest.raises(ValueError, match="finite"):
        knee(np.array([[math.nan, 1.0]]))
