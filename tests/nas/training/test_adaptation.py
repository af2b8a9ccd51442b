"""A model without a classifier for the images' classes gets one; classes in another order are noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import nas
from nas.cli.main import app
from nas.events import Notice, StageStarted
from nas.training import fine_tuning
from nas.training.adaptation import adapt_classifier
from nas.training.fine_tuning import fine_tune
from nas.training.pretrained import ModelRequest, prepare_model
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.supernet import Supernet
from supernets.timm_models.loading import load_timm_supernet
from supernets.training import trainer
from supernets.training.events import TrainingProgress
from supernets.training.settings import TrainingSettings

ARGUMENTS = {"depth": 1, "embed_dim": 48, "img_size": 16, "num_heads": 3, "patch_size": 4}
MODEL = "vit_tiny_patch16_224?" + "&".join(f"{name}={value}" for name, value in ARGUMENTS.items())


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 16)


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    return load_timm_supernet(MODEL, classes=10)


def said(events: list[object]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Notice))


def test_a_backbone_without_a_classifier_gets_one_and_teaches(digits: ImageData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGUMENTS)
    save_file(backbone.state_dict(), tmp_path / "model.safetensors")
    start = prepare_model(ModelRequest(MODEL, str(tmp_path / "model.safetensors")), digits, "cpu", lambda event: None)
    assert (start.facts["head"], start.facts["teaches"]) == ("fitted", True)
    assert start.facts["accuracy"] == pytest.approx(start.facts["probe"], abs=0.01)
    assert start.facts["probe"] > 0.5
    assert 0.2 < start.facts["knn"] <= 1
    assert start.facts["fitted_to"] == digits.splits["train"]


def test_the_worth_of_weights_is_told_on_the_command_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGUMENTS)
    save_file(backbone.state_dict(), tmp_path / "own.safetensors")
    given = ["--model", MODEL, "--weights", str(tmp_path / "own.safetensors"), "--data", "digits"]
    result = CliRunner().invoke(app, ["profile", *given, "--json"])
    worth = json.loads(result.stdout)["worth"]
    assert worth["probe"] > 0.5
    assert worth["weighted"].keys() == {"10", "20", "100", "200"}
    assert 0.2 < worth["neighbours"] <= 1
    for wrong, message in ((given[:4], "weights without images"), ([MODEL, *given[:2]], "expected one model")):
        result = CliRunner().invoke(app, ["profile", *wrong])
        assert result.exit_code == 2
        assert message in result.stderr


def test_a_classifier_of_the_same_classes_stays(digits: ImageData, supernet: Supernet) -> None:
    events: list[object] = []
    assert adapt_classifier(supernet, digits, False, 0, None, events.append)["head"] == "fitted"
    layer = supernet.network.get_submodule("head.head")
    before = layer.get_parameter("weight").clone()
    assert adapt_classifier(supernet, digits, True, 0, None, events.append) == {"head": "given"}
    assert torch.equal(layer.get_parameter("weight"), before)
    assert said(events) == ""


def test_classes_in_another_order_are_noticed_without_names(digits: ImageData, supernet: Supernet) -> None:
    events: list[object] = []
    adapt_classifier(supernet, digits, False, 0, None, events.append)
    layer = supernet.network.get_submodule("head.head")
    before = layer.get_parameter("weight").clone()
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.copy_(tensor.roll(3, dims=0))
    assert adapt_classifier(supernet, digits, True, 0, None, events.append)["head"] == "fitted"
    assert "its classes may stand in another order" in said(events)
    assert torch.allclose(layer.get_parameter("weight"), before)


def test_a_fitted_model_is_fine_tuned_where_there_is_time(
    digits: ImageData, supernet: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    worth = adapt_classifier(supernet, digits, False, 0, None, lambda event: None)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    assert fine_tune(supernet, digits, 0, 1e-3, worth["probe"], lambda event: None) is None
    monkeypatch.setattr(fine_tuning, "FEWEST_PASSES", 0.0)  # however busy the machine is
    events: list[object] = []
    accuracy = fine_tune(supernet, digits, 0, 2.0, 1.0, events.append)  # nothing is better than all
    assert accuracy is not None
    assert any(isinstance(event, StageStarted) and event.seconds == 2 for event in events)
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())
    assert not any((tmp_path / "adapted").iterdir())
    assert fine_tune(supernet, digits, 0, 2.0, 0.0, lambda event: None) is not None
    assert not all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_a_fine_tuning_that_is_stopped_goes_on(
    digits: ImageData, supernet: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fine_tuning, "FEWEST_PASSES", 0.0)

    def stop(event: object) -> None:
        if isinstance(event, TrainingProgress) and event.step >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune(supernet, digits, 0, 2.0, 0.0, stop)
    (folder,) = (tmp_path / "adapted").iterdir()
    assert (folder / "supernet.safetensors").is_file()
    assert fine_tune(supernet, digits, 0, 2.0, 0.0, lambda event: None) is not None
    assert not folder.exists()


def test_the_precision_that_is_set_is_that_of_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, **ARGUMENTS)
    save_file(backbone.state_dict(), tmp_path / "model.safetensors")
    own = {"model": MODEL, "weights": str(tmp_path / "model.safetensors"), "data": "digits", "target": "pixel6"}
    trained_in: list[str] = []

    def stop(network: Supernet, images: ImageData, settings: TrainingSettings, *rest: object, **named: object) -> None:
        trained_in.append(settings.precision)
        raise KeyboardInterrupt

    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(fine_tuning, "FEWEST_PASSES", 0.0)
    monkeypatch.setattr(trainer, "train_supernet", stop)
    with pytest.raises(KeyboardInterrupt):
        nas.search(**own, budget_seconds=60, options={"precision": "bf16"})
    assert trained_in == ["bf16"]
