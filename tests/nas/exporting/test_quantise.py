"""Bits for each layer of a trained network, from the command to the files."""

from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import nas
from latency_tables.repeats import Protocol
from nas.cli.main import app
from nas.errors import UsageError
from nas.exporting import quantise
from nas.exporting.formats import measured, quantised
from nas.exporting.quantise import QuantisedMember, _choose, _notes
from nas.finishing import quantised as finishing
from nas.finishing.finish import _Finish
from nas.finishing.quantised import STAGES
from nas.quantisation import times
from nas.quantisation.adaptive_rounding import adaptive_rounding
from nas.quantisation.choose import Candidates
from nas.quantisation.program import Assignment, LayerOptions, Option
from nas.quantisation.relu_mlp import relu_mlp
from nas.quantisation.times import LayerTimes
from supernets.checkpoint import read_checkpoint
from supernets.training.events import TrainingProgress

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


def slow_in_integers(folder: Path) -> Candidates:
    """Two layers of a network that takes 0.99 of the time of fp32 in int8."""
    layers = tuple(
        LayerOptions(
            name,
            (
                Option("fp32", 0.0, 0.4, 4e5),
                Option("int8", 1e-4, 0.39, 1e5),
                Option("w4", 2e-3, 0.5, 6e4),
                Option("w2", 4e-2, 0.6, 3e4),
            ),
        )
        for name in ("first", "second")
    )
    times = LayerTimes({"fp32": 1.0, "int8": 0.99}, {}, {})
    return Candidates(folder, (), layers, times, 0.2, 2e4, {}, torch.zeros(1), dict.fromkeys(("first", "second"), 1))


@pytest.mark.parametrize(("limit", "said"), [(None, "those of int8 throughout"), (1.5e5, "0.15 MB")])
def test_bytes_are_the_budget_where_integers_are_not_faster(tmp_path: Path, limit: float | None, said: str) -> None:
    found = slow_in_integers(tmp_path)
    front = found.front(None, limit)
    sizes = [each.size for each in front]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == ((2.2e5 if limit is None else 1.4e5), 8e4)
    members = [
        QuantisedMember(
            "", {}, 0.0, each.loss, 1.0, 0.9, 0.8, 1.0, each.ms, each.ms, int(each.size), 0.0, 0.0, each.precisions
        )
        for each in (Assignment({}, 0.0, 1.0, 8.2e5), *front)
    ]  # fmt: skip
    chosen = _choose(members, None, limit, found.has_advantage)
    assert members[chosen].bytes == int(sizes[0])
    (note, *_) = _notes(found, members, chosen, (None, limit))
    assert note == (
        f"no int8 advantage on this processor: int8 throughout takes 0.99 of fp32, so bytes are the budget, {said}"
    )


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
def test_a_finish_for_few_bits_that_is_stopped_goes_on_to_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "adaptive_rounding", partial(adaptive_rounding, iterations=3))
    monkeypatch.setattr(_Finish, "_keeps_enough", lambda self: False)
    asked: dict[str, Any] = {"quantise": "w2", "epochs": 2, "options": {"batch_size": 10}}
    whole = nas.finish(run, **asked, output=tmp_path / "whole")

    def interrupt(event: object) -> None:
        if isinstance(event, TrainingProgress) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        nas.finish(run, **asked, output=tmp_path / "torn", progress=interrupt)
    again = nas.finish(output=tmp_path / "torn", resume=True)
    left, right = (read_checkpoint(result.checkpoint).weights for result in (whole, again))
    assert again.steps == whole.steps > 2
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert again.accuracy == whole.accuracy


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
