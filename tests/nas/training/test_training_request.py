"""What a training is when little is said about it."""

from __future__ import annotations

from typing import Any

import pytest

from nas.training.request import run_settings


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "sandwich"),
        ({"epochs": 3}, "sandwich"),
        ({"budget_seconds": 60.0}, "uniform"),
        ({"budget_seconds": 60.0, "policy": "conflict-aware"}, "conflict-aware"),
        ({"budget_seconds": 60.0, "recipe": "elasticvit"}, None),
        ({"epochs": 3, "arch": "elastic-mini/smallest"}, "uniform"),
    ],
)
def test_policy_unless_told(given: dict[str, Any], policy: str | None) -> None:
    assert run_settings(given).policy == policy
