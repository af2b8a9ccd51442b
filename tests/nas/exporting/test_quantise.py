"""Bits for each layer of a trained network, from the command to the files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nas
from latency_tables.repeats import Protocol
from nas.cli.main import app
from nas.errors import UsageError
from nas.exporting import quantise
from nas.exporting.formats import measured, quantised
from nas.finishing import quantised as finishing
from nas.finishing.quantised import STAGES
from nas.quantisation import times
from nas.quantisation.adaptive_rounding import adaptive_rounding
from nas.quantisation.relu_mlp import relu_mlp

TINY = Protocol(rounds=2, rounds_limit=2, warm_up_runs=1, warm_up_seconds=0.0, runs=3, seconds=0.001, restarts=0)


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantise") / "run"
    nas.train(arch="resnas-mini/smallest", data=str(images), epochs=1, options={"batch_size": 10}, output=folder)
    return folder


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((quantise, "QUICK"), (times, "QUICK"), (quantised, "QUICK"), (measured, "ONE")):
        monkeypatch.setattr(module, name, TINY)


@pytest.mark.slow
def test_a_front_of_files_is_written_measured_and_judged(run: Path) -> None:
    ran = CliRunner().invoke(app, ["quantise", str(run), "--size", "600kB", "--json", "-q"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    fp32, *front = found["members"]
    assert fp32["kl"] == 0
    assert set(fp32["counts"]) == {"fp32"}
    chosen = found["members"][found["chosen"]]
    assert chosen["bytes"] <= 600_000 < fp32["bytes"]
    assert all(0 < member["kl"] and member["ms"] > 0 for member in front)
    assert all((Path(found["folder"]) / member["file"]).exists() for member in front)
    assert found["test"]["fp32"]["images"] == found["test"]["chosen"]["images"] > 0
    assert found["left_in_fp32"]
    ran = CliRunner().invoke(app, ["export", str(run), "--format", "onnx-mixed", "--json"])
    assert ran.exit_code == 0, ran.output
    written = json.loads(ran.stdout)["proof"]["formats"]["onnx-mixed"]
    assert written["bytes"] == pytest.approx(chosen["bytes"], rel=0.05)


@pytest.mark.slow
def test_limits_that_nothing_meets_are_refused(run: Path) -> None:
    ran = CliRunner().invoke(app, ["quantise", str(run), "--size", "1kB", "-q"])
    assert ran.exit_code == 2
    assert "no precisions are within the limits: expected at least" in " ".join(ran.output.split())


@pytest.mark.slow
def test_a_finish_for_few_bits_trains_only_where_they_cost_much(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "adaptive_rounding", partial(adaptive_rounding, iterations=3))
    options = {"batch_size": 10}
    kept = nas.finish(run, quantise="int8", tolerance=100.0, options=options, output=tmp_path / "kept")
    assert kept.steps == 0
    assert (tmp_path / "kept" / kept.verified["export"] / "model.int8.onnx").exists()
    trained = nas.finish(run, quantise="w2", tolerance=0.0, epochs=2, options=options, output=tmp_path / "trained")
    found = trained.accuracy
    best = max(found.get(stage, 0.0) for stage in ("inherited", *STAGES))  # type: ignore[type-var]
    assert trained.steps > 0 or found["fp32"] <= best  # type: ignore[operator]
    assert trained.steps == 0 or found.keys() >= set(STAGES)
    assert found["averaged"] >= best  # type: ignore[operator]


@pytest.mark.slow
def test_a_finish_puts_relu_in_the_place_of_gelu(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finishing, "relu_mlp", partial(relu_mlp, iterations=20))
    model = "timm:vit_tiny_patch16_224?depth=1&embed_dim=32&img_size=32&num_heads=2&patch_size=8"
    run = tmp_path / "vit"
    nas.train(arch=f"{model}/largest", data=str(images), epochs=1, options={"batch_size": 10}, output=run)
    found = nas.finish(run, quantise="int8", relu=True, tolerance=100.0, output=tmp_path / "relu")
    assert "act_layer=relu" in found.architecture.space
    assert found.accuracy.keys() >= {"fp32", "relu", "inherited", "averaged"}
    network = nas.load(tmp_path / "relu" / found.verified["export"])
    assert {type(module).__name__ for module in network.modules() if "LU" in type(module).__name__} == {"ReLU"}
    with pytest.raises(UsageError, match="`relu` without `quantise`"):
        nas.finish(run, relu=True, output=tmp_path / "refused")
