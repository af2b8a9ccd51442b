"""`nas train`: recipes and options reach the trainer, resumed runs keep theirs, and nonsense is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nas.cli.main import app
from supernets.checkpoint import read_checkpoint


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["train", *arguments])


def test_a_recipe_with_options_is_trained_validated_and_resumed(images: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    chosen = ["--recipe", "elasticvit", "--epochs", "6", "--batch-size", "15", "--teachers", "none"]
    chosen += ["--policy", "uniform", "--set", "cooldown_epochs=1", "--set", "log_every_steps=1"]
    found = run("--data", str(images), "-o", folder, *chosen, "--validate", "smallest,largest", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["steps"] == 14
    assert "after 1 epoch: smallest" in found.stderr
    metadata = read_checkpoint(tmp_path / "run" / "checkpoints" / "supernet.safetensors").metadata
    asked = metadata["settings"]
    assert (asked["policy"], asked["batch_size"], asked["teachers"], asked["clipping"]) == (
        "uniform",
        15,
        [],
        "adaptive",
    )
    assert asked["learning_rate"] == pytest.approx(5e-4 * 15 / 512)
    again = run("--resume", folder, "--set", "log_every_steps=2")
    assert again.exit_code == 0, again.output
    other = run("--resume", folder, "--set", "ema_decay=0.5")
    assert other.exit_code == 4
    assert "`ema_decay` was 0.99985 when the run was started, found 0.5" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--recipe", "elasticvits"], 2, "unknown training recipe: `elasticvits`"),
        (["--set", "weight_decoy=1"], 2, "did you mean `weight_decay`?"),
        (["--precision", "fp8"], 2, "training setting `precision`: found `fp8`"),
        (["--validate", "smalest"], 2, "smalest"),
        (["--teachers", "resnet10"], 2, "teacher `resnet10`: timm has no network of that name"),
        (["--set", "low_rank=4"], 2, "the weights are random"),
        (["--workers", "2"], 2, "`workers` without `launcher`"),
    ],
)
def test_what_makes_no_sense_leaves_no_run_behind(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    found = run("-o", str(tmp_path / "run"), *arguments)
    assert found.exit_code == code, found.output
    assert message in found.stderr
    assert not (tmp_path / "run").exists()


def test_tensorboard_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    found = run("-o", str(tmp_path / "run"), "--tensorboard")
    assert found.exit_code == 5
    assert "pip install 'nas-vit[tensorboard]'" in found.stderr
    assert not (tmp_path / "run").exists()
