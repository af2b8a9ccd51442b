"""A search whose budget trains the network that was chosen, alone, after networks were judged untrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import nas
from nas.errors import UsageError
from nas.evaluation.accuracy import judge_part
from nas.events import StagePlan, StageStarted, StagesTook, TimePlan
from nas.exporting.robust import note_robustness
from nas.networks import precision
from nas.networks.onnx import OnnxNetwork
from nas.report import build_report
from nas.runs.folder import FINISHED
from supernets.data.sources import load_data
from supernets.errors import TrainingError

SIZES = {"depth": 2, "embed_dim": 48, "img_size": 16, "num_heads": 3, "patch_size": 4}
MODEL = "vit_tiny_patch16_224?" + "&".join(f"{name}={size}" for name, size in SIZES.items())


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import timm

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=10, **SIZES).state_dict(), path)
    return {"model": MODEL, "weights": path, "data": "digits", "compensation_images": 64}


def test_the_chosen_network_is_finished_and_shipped(question: dict[str, Any], tmp_path: Path) -> None:
    told: list[object] = []
    result = nas.search(
        **question, budget_seconds=8, evaluations=2, limit_share=0.8, output=tmp_path / "run", progress=told.append
    )
    plan = next(event for event in told if isinstance(event, TimePlan))
    assert plan.training_seconds is None
    assert plan.winner_seconds
    stages = [event.name for event in told if isinstance(event, StageStarted)]
    assert stages.index("search") < stages.index("training") < stages.index("export")
    [ahead] = [event.stages for event in told if isinstance(event, StagePlan)]
    assert list(ahead) == ["prepare the model", "search of 2 networks", "training of the chosen one", "export"]
    [took] = [event.seconds for event in told if isinstance(event, StagesTook)]
    recorded = json.loads((result.run / "environment.json").read_text(encoding="utf-8"))["stages"]
    assert recorded == {name: round(seconds, 1) for name, seconds in took.items()}
    assert set(stages) <= recorded.keys()

    document, verified = result.document, result.document["verified"]
    assert verified["pick"] == result.default_pick == "best"
    assert document["model"]["compensation"]["variant"] == "prefix"
    assert "training" not in document
    finished = json.loads((result.run / FINISHED / "finish.json").read_text(encoding="utf-8"))
    assert finished["architecture"] == result.pick().architecture.to_dict()
    assert verified["search_accuracy"] == finished["accuracy"]["averaged"]
    assert finished["accuracy"]["averaged"] >= finished["accuracy"]["compensated"]
    assert verified["test_accuracy"] == finished["verified"]["test_accuracy"]
    shipped = result.run / verified["export"]
    assert shipped == result.run / FINISHED / "exports" / "network"
    weights = load_file(shipped / "model.safetensors")

    judged = note_robustness(result.run)["robustness"]
    assert {tuple(entry) for entry in judged.values()} == {("original", "finished")}
    assert judged["undisturbed"]["finished"] == pytest.approx(verified["test_accuracy"])
    assert judged["undisturbed"]["original"] == pytest.approx(verified["original_test_accuracy"])
    page = build_report(result.run).read_text(encoding="utf-8")
    assert "Accuracy on disturbed images" in page
    assert "4 patches of another image, off the grid" in page

    assert result.export() == shipped
    again = nas.search(output=result.run, resume=True)
    assert again.document["verified"] == verified
    assert all(torch.equal(weights[name], each) for name, each in load_file(shipped / "model.safetensors").items())


@pytest.mark.slow
def test_the_chosen_network_may_see_several_scales(question: dict[str, Any], tmp_path: Path) -> None:
    result = nas.search(
        **question, scales=True, limits={"params": 40e3}, budget_seconds=20, evaluations=4, output=tmp_path / "run"
    )
    verified, record = result.document["verified"], json.loads((result.run / "scales" / "scales.json").read_text())
    assert verified["scales"] == record
    first, *others = record["scales"]
    assert first["search_accuracy"] == verified["search_accuracy"]
    assert [entry["is_within"] for entry in others] == [entry["params"] <= 40e3 for entry in others]
    assert record["chosen"] > 0
    images = load_data("digits", record["scales"][record["chosen"]]["side"])
    judged = judge_part(OnnxNetwork(result.run / record["file"]), images, "test")
    assert judged.value == record["test_accuracy"] > 0.3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "without a limit on one of `params`, `peak-memory`, `weight-bytes`"),
        ({"limits": {"params": 1e6}, "budget_seconds": 0}, "where the chosen network is not trained"),
        ({"limits": {"params": 1e6}, "model": None, "weights": None}, "without a model"),
        ({"limits": {"params": 1e6}, "precision": "int8"}, "in int8"),
        ({"limits": {"params": 1e6}, "options": {"progressive": True}}, "setting `progressive`"),
    ],
)
def test_scales_are_refused_where_they_do_not_pay(
    question: dict[str, Any], changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        nas.search(**{**question, "scales": True, "output": tmp_path / "run", **changed})
    assert not (tmp_path / "run").exists()


def test_a_lower_end_that_nothing_reaches_is_left_out(question: dict[str, Any], tmp_path: Path) -> None:
    result = nas.search(**question, budget_seconds=0, evaluations=1, limit_ms=100, output=tmp_path / "run")
    assert json.loads((result.run / "settings.json").read_text(encoding="utf-8"))["focus"] == 0
    assert result.front
    assert result.document["model"]["precision"] == "fp32"


def test_the_chosen_network_is_trained_in_bf16_where_that_is_fast(
    question: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "processor_flags", lambda: ("avx512_bf16",))
    monkeypatch.setattr(precision, "BF16_WIDTH", 1)
    result = nas.search(**question, evaluations=1, limit_share=0.8, budget_seconds=3, output=tmp_path / "run")
    assert result.document["model"]["precision"] == "bf16"
    trained = json.loads((result.run / FINISHED / "settings.json").read_text(encoding="utf-8"))["training"]
    assert trained["precision"] == "bf16"


def test_a_supernet_is_not_trained_beside_it(question: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no supernet is trained"):
        nas.search(**question, train="winner", policy="sandwich", output=tmp_path / "run")
    with pytest.raises(UsageError, match="`train` is 'both'"):
        nas.search(**question, train="both", output=tmp_path / "run")
    with pytest.raises(UsageError, match="`train` winner without a model"):
        nas.search(data="digits", space="elastic-mini", train="winner", output=tmp_path / "run")
    with pytest.raises(UsageError, match="with random weights"):
        nas.search(**{**question, "weights": "random"}, train="winner", output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "kind", "found"),
    [
        ({"batch_size": -1}, TrainingError, "batch_size"),
        ({"ema_decay": 7.0}, TrainingError, "ema_decay"),
        ({"accumulate": 99}, TrainingError, "accumulate"),
        ({"class_weights": "effective"}, UsageError, "`class_weights` beside the soft outputs of teacher `original`"),
        ({"teachers": ("resnet18",)}, UsageError, "`teachers` in a search inside a model"),
    ],
)
def test_what_a_finish_would_refuse_is_refused_before_the_search(
    question: dict[str, Any], options: dict[str, Any], kind: type[Exception], found: str, tmp_path: Path
) -> None:
    told: list[object] = []
    with pytest.raises(kind, match=found):
        nas.search(**question, budget_seconds=8, options=options, output=tmp_path / "run", progress=told.append)
    assert not told
    assert not (tmp_path / "run").exists()


def test_rare_classes_weigh_more_where_the_original_says_a_class(question: dict[str, Any], tmp_path: Path) -> None:
    options = {"class_weights": "effective", "teacher_target": "hard"}
    asked = {"budget_seconds": 4, "evaluations": 2, "objectives": ("balanced_accuracy", "latency"), "options": options}
    result = nas.search(**question, **asked, output=tmp_path / "run")
    finished = json.loads((result.run / FINISHED / "settings.json").read_text(encoding="utf-8"))
    assert {name: finished["options"][name] for name in options} == options
    with pytest.raises(UsageError, match="`teacher_target` `hard`"):
        nas.search(**question, **{**asked, "objectives": None}, labels="none", limit_share=0.8, output=tmp_path / "x")
