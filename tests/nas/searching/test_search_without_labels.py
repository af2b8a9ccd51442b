"""A search that looks at no label: networks inside a backbone are ranked by how much of its features they keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import nas
from nas.errors import UsageError
from nas.evaluation.fidelity import FidelityEvaluator, mean_cosine, outputs_of
from nas.runs.folder import original_checkpoint
from nas.training.pretrained import ModelRequest, prepare_model
from supernets.checkpoint import load_supernet
from supernets.data.memory_images import MemoryData
from supernets.data.sources import load_data

MODEL = "vit_tiny_patch16_224?depth=2&embed_dim=48&img_size=16&num_heads=3&patch_size=4"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone without a classifier."""
    torch.manual_seed(1)
    sizes = {"depth": 2, "embed_dim": 48, "img_size": 16, "num_heads": 3, "patch_size": 4}
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes).state_dict(), path)
    return str(path)


def trials(run: Path) -> list[tuple[Any, Any]]:
    lines = [json.loads(line) for line in (run / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["genotype"], line["objectives"]) for line in lines if line["state"] == "done"]


def test_labels_are_not_looked_at(weights: str) -> None:
    """With other labels everything is the same, to the bit."""
    images, asked = load_data("digits", 16), ModelRequest(MODEL, weights, uses_labels=False)
    assert isinstance(images, MemoryData)
    first = prepare_model(asked, images, "cpu", lambda event: None)
    images._labels_N = images._labels_N.flip(0)
    second = prepare_model(asked, images, "cpu", lambda event: None)
    assert first.facts == second.facts
    assert (first.facts["head"], first.facts["components"], first.facts["teaches"]) == ("components", 48, False)
    states = zip(first.supernet.state_dict().values(), second.supernet.state_dict().values(), strict=True)
    assert all(torch.equal(before, after) for before, after in states)
    judge = FidelityEvaluator(first.supernet, images)
    space = first.supernet.space
    assert judge.evaluate(space.largest, 0).objective == pytest.approx(1, abs=1e-6)
    assert judge.evaluate(space.smallest, 0).objective < 0.9


def test_what_was_found_is_exported_as_features(weights: str, tmp_path: Path) -> None:
    asked = {"model": MODEL, "weights": weights, "data": "digits", "labels": "none", "compensation": "none"}
    result = nas.search(**asked, evaluations=2, limit_share=0.8, output=tmp_path / "run")  # type: ignore[arg-type]
    assert result.document["objectives"]["maximise"] == "fidelity"
    verified = result.document["verified"]
    assert not any("accuracy" in name for name in verified)
    config = json.loads((result.run / verified["export"] / "config.json").read_text(encoding="utf-8"))
    assert config["labels"] == "none"
    assert "label_names" not in config
    images = load_data("digits", 16)
    original, _ = load_supernet(original_checkpoint(result.run))
    exported = nas.load(result.run / verified["export"])
    found = outputs_of(lambda x: exported(exported.preprocess(x)), images, "test")
    assert found.shape == (images.splits["test"], 48)
    wanted = outputs_of(original.network, images, "test")
    cut = outputs_of(original.extract(result.pick(verified["pick"]).architecture).eval(), images, "test")
    value = mean_cosine(found, wanted)
    assert value == pytest.approx(verified["test_fidelity"], abs=1e-4)
    assert value > mean_cosine(cut, wanted) + 0.05
    for given, message in (
        ({"teacher": "largest"}, "found teacher `largest`"),
        ({"quantise": "int8"}, "`quantise` in a"),
    ):
        with pytest.raises(UsageError, match=message):
            nas.finish(result.run, **given)  # type: ignore[arg-type]
    assert "components of features" in result.report().read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_chosen_network_learns_what_the_whole_one_sees(weights: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": MODEL, "weights": weights, "data": "digits", "labels": "none", "limit_share": 0.6}
    found = nas.search(**asked, evaluations=4, output=tmp_path / "run")
    finished = nas.finish(found.run, epochs=6, output=tmp_path / "finish")
    assert {"sliced", "compensated", "inherited", "trained", "averaged"} <= finished.accuracy.keys()
    assert not finished.balanced_accuracy
    assert finished.verified["test_fidelity"] > found.document["verified"]["test_fidelity"]
    assert not any("accuracy" in name for name in finished.verified)
    state = nas.load(finished.run / finished.verified["export"]).state_dict()
    assert not any("feature_maps" in name for name in state)
    trained = nas.search(**asked, evaluations=4, budget_seconds=90, output=tmp_path / "trained")
    verified = trained.document["verified"]
    assert verified["finished"]["averaged"] == verified["search_fidelity"]
    assert verified["test_fidelity"] > 0
    assert trained.export().is_relative_to(tmp_path / "trained" / "finished")


@pytest.mark.slow
def test_resumed_runs_and_workers_find_the_same(weights: str, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"model": MODEL, "weights": weights, "data": "digits", "labels": "none", "batch": 2}
    whole = nas.search(**asked, evaluations=6, output=tmp_path / "whole")
    nas.search(**asked, evaluations=2, output=tmp_path / "parts")
    again = nas.search(output=tmp_path / "parts", resume=True, evaluations=6)
    there = nas.search(**asked, evaluations=6, output=tmp_path / "there", workers=2, executor="local")
    assert trials(again.run) == trials(whole.run) == trials(there.run)


def test_what_makes_no_sense_is_refused(weights: str, tmp_path: Path) -> None:
    question = {"model": MODEL, "weights": weights, "data": "digits"}
    for given, message in (
        ({**question, "labels": "some"}, "`labels` is 'some', expected 'given' or 'none'"),
        ({**question, "objectives": ["fidelity", "latency"]}, "ranks networks inside a model without labels"),
        ({**question, "labels": "none", "objectives": ["accuracy", "latency"]}, "expected `fidelity` among them"),
        (
            {**question, "labels": "none", "budget_seconds": 600, "train": "supernet"},
            "a training of all networks together",
        ),
        ({**question, "labels": "none", "weights": "random"}, "no labels and random weights"),
        ({"data": "digits", "labels": "none"}, "no labels and no model"),
    ):
        with pytest.raises(UsageError, match=message):
            nas.search(**given, output=tmp_path / "run")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
