"""A table that has only seen `elastic-mini`, and twenty models of timm that were measured beside it.

The figures are of `benchmarks/evidence.py --record`, on two cores of an AMD EPYC that others used as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latency_tables import Kernel, LatencyPredictor, LatencyTable
from search_spaces.json_file import parse_json

RECORD = Path(__file__).parent.parent / "support" / "recorded_tables" / "elastic-mini.json"
DOCUMENT: dict[str, Any] = parse_json(RECORD.read_text(encoding="utf-8"))
MODELS: dict[str, dict[str, Any]] = DOCUMENT["models"]


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    return LatencyPredictor(LatencyTable.from_dict(DOCUMENT["table"], str(RECORD)))


def kernels_of(model: str) -> list[Kernel]:
    kernels = []
    for op, key, macs, read, written, count in MODELS[model]["kernels"]:
        kernels += [Kernel(op, key, macs, read, written, (), (), 1, 1)] * count
    return kernels


@pytest.mark.parametrize("model", MODELS)
def test_what_is_claimed_holds(predictor: LatencyPredictor, model: str) -> None:
    latency = predictor.kernels(kernels_of(model))
    if not latency.is_declined:
        assert latency.low_ms <= MODELS[model]["measured_ms"] <= latency.high_ms


def test_the_record_has_models_on_both_sides(predictor: LatencyPredictor) -> None:
    assert len(MODELS) == 20
    assert list(predictor.evidence.groups) == ["elastic-mini"]
    declined = [predictor.kernels(kernels_of(model)).is_declined for model in MODELS]
    assert sum(declined) >= 10


def test_without_the_rule_wrong_numbers_would_have_been_claimed(predictor: LatencyPredictor) -> None:
    errors = [predictor.kernels(kernels_of(name)).ms / model["measured_ms"] - 1 for name, model in MODELS.items()]
    assert sum(abs(error) > 0.2 for error in errors) >= 10
    assert max(errors) > 1
