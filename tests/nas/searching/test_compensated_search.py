"""A search that trains nothing: networks inside a model of one's own are sliced, compensated and judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
from nas.errors import RunError, UsageError
from nas.evaluation.accuracy import accuracy_of
from nas.evaluation.compensation import Compensation
from nas.runs.folder import original_checkpoint
from supernets.checkpoint import load_supernet
from supernets.data.sources import load_data
from supernets.errors import DataError
from supernets.timm_models.compensation import Compensator
from supernets.timm_models.export import timm_state_dict
from tests.support.timm_networks import timm_space

MODEL = "vit_tiny_patch16_224?depth=2&embed_dim=48&img_size=16&num_heads=3&patch_size=4"


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import timm

    torch.manual_seed(1)
    sizes = {"depth": 2, "embed_dim": 48, "img_size": 16, "num_heads": 3, "patch_size": 4}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, **sizes)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return {"model": MODEL, "weights": path, "data": "digits", "budget_seconds": 0, "compensation_images": 64}


def _trials(run: Path) -> list[tuple[Any, ...]]:
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["genotype"], line["objectives"]) for line in lines if line["state"] == "done"]


def _weights(run: Path) -> dict[str, torch.Tensor]:
    (export,) = (run / "exports").iterdir()
    return load_file(export / "model.safetensors")


def test_networks_are_judged_and_exported_compensated(question: dict[str, Any], tmp_path: Path) -> None:
    result = nas.search(**question, evaluations=2, output=tmp_path / "run", limit_share=0.8)
    told = result.document["model"]["compensation"]
    assert (told["variant"], told["images"], told["alpha"]) == ("prefix", 64, 1e-3)
    assert set(told["losses"]) == {"hidden", "head", "embed", "depth"}
    model_ms = result.document["model"]["latency"]["pixel6"]["high_ms"]
    assert result.document["limit_ms"] == pytest.approx(0.8 * model_ms)
    assert "training" not in result.document
    limit_ms = result.document["limit_ms"]
    assert all(0.7 * limit_ms <= member.latency["pixel6"].high_ms <= limit_ms for member in result.front)

    supernet, _ = load_supernet(original_checkpoint(result.run))
    data = load_data("digits", 16)
    images_BCHW, _ = next(iter(data.train_batches(64, 0, epoch=0)))
    member = result.pick("best")
    judged = Compensator(supernet, images_BCHW, "prefix")(member.architecture)
    assert accuracy_of(judged, data, "search", "cpu") == member.objectives["accuracy"]
    network = Compensation("prefix", 64).chosen(supernet, data, member.architecture, seed=0).network
    expected, found = timm_state_dict(timm_space(supernet), member.architecture, network), _weights(result.run)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    shipped = accuracy_of(network, data, "search", "cpu")
    assert result.document["verified"]["search_accuracy"] == pytest.approx(shipped, abs=1 / data.splits["search"])
    solved = accuracy_of(Compensator(supernet, images_BCHW)(member.architecture), data, "search", "cpu")
    assert shipped >= solved


@pytest.mark.slow
def test_resumed_runs_find_the_same_and_finish_compensated(question: dict[str, Any], tmp_path: Path) -> None:
    result = nas.search(**question, evaluations=4, output=tmp_path / "whole")
    assert "From the model to the file" in result.report().read_text(encoding="utf-8")
    nas.search(**question, evaluations=2, output=tmp_path / "parts")
    again = nas.search(output=tmp_path / "parts", resume=True, evaluations=4)
    assert _trials(again.run) == _trials(result.run)
    assert len(_trials(again.run)) == 4
    measured, kept = (
        json.loads((run / "settings.json").read_text())["sensitivities"] for run in (result.run, again.run)
    )
    assert measured == kept
    assert max(max(losses) - losses[-1] for losses in measured) > 0.1
    weights = _weights(result.run)
    assert all(torch.equal(weights[name], tensor) for name, tensor in _weights(again.run).items())
    with pytest.raises(RunError, match="was started without a training"):
        nas.search(output=tmp_path / "parts", resume=True, budget_seconds=60)

    finished = nas.finish(result.run, epochs=1, output=tmp_path / "finished")
    accuracy = json.loads((finished.run / "finish.json").read_text(encoding="utf-8"))["accuracy"]
    assert accuracy["compensated"] == accuracy["inherited"]
    assert accuracy["compensated"] == pytest.approx(result.document["verified"]["search_accuracy"], abs=0.01)
    assert 0 <= accuracy["sliced"] <= 1


@pytest.mark.slow
def test_local_workers_judge_alike(question: dict[str, Any], tmp_path: Path) -> None:
    asked = {**question, "evaluations": 3, "batch": 2, "compensation": "prefix"}
    here = nas.search(**asked, output=tmp_path / "here")
    there = nas.search(**asked, output=tmp_path / "there", workers=2, executor="local")
    assert _trials(here.run) == _trials(there.run)


def test_what_makes_no_sense_is_refused(question: dict[str, Any], tmp_path: Path) -> None:
    for given, message in (
        ({"space": "elastic-mini", "data": "digits", "budget_seconds": 0}, "a budget of 0 without a model"),
        (
            {"space": "elastic-mini", "data": "digits", "compensation": "prefix"},
            "compensation `prefix` without a model",
        ),
        ({**question, "focus": 1.0}, "`focus` is 1.0, expected a share"),
        ({"limit_share": 0.6}, "share of the model's latency without a model"),
        ({**question, "weights": "random"}, "a budget of 0 with random weights"),
        ({**question, "compensation": "some"}, "`compensation` is 'some', expected one of `sequential`"),
        ({**question, "limit_share": 0.5, "limit_ms": 3}, "two limits on the latency on `pixel6`: 50% and 3 ms"),
    ):
        with pytest.raises(UsageError, match=message):
            nas.search(**given, output=tmp_path / "run")  # type: ignore[arg-type]
    with pytest.raises((DataError, UsageError), match="32"):
        nas.search(**{**question, "compensation_images": 31}, output=tmp_path / "run")
    assert not list(tmp_path.iterdir())
