"""What a training is when little is said about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas.errors import NasError
from nas.training.options import checked_options
from nas.training.request import load_images, run_settings, trainer_settings
from nas.training.settings import TrainSettings
from search_spaces import get_space


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


@pytest.mark.parametrize(("text", "probability"), [("0", None), ("0.25", 0.25), ("none", 0.5)])
def test_mirroring_is_a_setting(images: Path, text: str, probability: float | None) -> None:
    options = checked_options({"hflip": text})
    settings = TrainSettings(data=str(images), options=options)
    data = load_images(settings, get_space("elastic-mini"), trainer_settings(settings))
    steps = data._loader.samples.training.transforms  # type: ignore[attr-defined]
    found = [step.p for step in steps if type(step).__name__ == "RandomHorizontalFlip"]
    assert found == ([] if probability is None else [probability])


@pytest.mark.parametrize("text", ["-1", "2", "nan", "often"])
def test_mirroring_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(NasError, match="training setting `hflip`"):
        trainer_settings(TrainSettings(options=checked_options({"hflip": text})))
