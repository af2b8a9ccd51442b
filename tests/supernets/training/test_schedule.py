"""Schedules: the learning rate over a training, and time budgets that hold on a machine that slows down."""

from __future__ import annotations

import json

import pytest

from supernets.training.schedule import Schedule, is_check, shorten_to_budget, steps_within


def test_the_rate_rises_and_falls_over_the_whole_training() -> None:
    schedule = Schedule(total_steps=100, warmup=0.1)
    rates = [schedule.rate(step) for step in range(100)]
    assert 0 < rates[0] < 0.1
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) > 0.99
    assert 0.01 <= rates[-1] < 0.011
    assert Schedule(**json.loads(json.dumps(schedule.to_dict()))) == schedule


def test_a_training_that_is_too_slow_is_shortened_smoothly() -> None:
    schedule = Schedule(total_steps=100, warmup=0.1)
    assert shorten_to_budget(schedule, step=40, elapsed=40.0, seconds_per_step=1.0, budget=100.0) is schedule
    shortened = shorten_to_budget(schedule, step=40, elapsed=40.0, seconds_per_step=2.0, budget=100.0)
    assert shortened.total_steps == 70
    assert shortened.progress(40) == schedule.progress(40)
    assert abs(shortened.rate(40) - schedule.rate(40)) < 0.02
    assert 0.01 <= shortened.rate(69) < 0.012
    assert shorten_to_budget(schedule, step=40, elapsed=10.0, seconds_per_step=0.5, budget=100.0) is schedule


@pytest.mark.parametrize("slowdown", [1.0, 1.1, 1.5, 3.0])
@pytest.mark.parametrize("when", [0.0, 0.3, 0.9])
def test_the_overrun_of_a_budget_is_bounded(slowdown: float, when: float) -> None:
    budget, elapsed, step = 200.0, 5.0, 0
    schedule = Schedule(steps_within(budget - elapsed, 0.5), warmup=0.1)
    last = 0.5
    while step < schedule.total_steps:
        if is_check(schedule, step):
            schedule = shorten_to_budget(schedule, step, elapsed, last, budget)
        last = 0.5 * (slowdown if elapsed > when * budget else 1)
        elapsed, step = elapsed + last, step + 1
    assert elapsed < budget * (1.05 if slowdown <= 1.5 else 1.15)
