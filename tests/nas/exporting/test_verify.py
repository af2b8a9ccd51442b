"""The long way through the public functions: train, search the trained weights, export the winner and verify it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nas
from nas.result import load_result


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keeps two threads from waiting for each other where other programs hold the processors."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_training_search_and_delivery(tmp_path: Path) -> None:
    trained = nas.train("elastic-mini", "digits", budget_seconds=1, output=tmp_path / "supernet")
    assert set(trained.accuracy) == {"smallest", "middle", "largest"}
    assert json.loads((trained.run / "training.json").read_text())["steps"] == trained.steps > 0
    again = nas.train(output=trained.run, resume=True)
    assert (again.steps, again.accuracy) == (trained.steps, trained.accuracy)

    result = nas.search(limit_ms=1.0, supernet=trained.run, evaluations=4, output=tmp_path / "run")
    assert result.objective == "accuracy"
    member, verified = result.pick(), result.document["verified"]
    assert verified["number"] == member.number
    assert 0 <= verified["test_accuracy"] <= 1
    network = nas.load(result.run / verified["export"])
    assert sum(parameter.numel() for parameter in network.parameters()) == member.params
    assert load_result(result.run).document == result.document
    assert result.report().exists()
