"""Training on a Ray cluster: two workers on this machine train what one process trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import nas
from nas.errors import UsageError
from nas.training.ray import _first_cause
from supernets.checkpoint import read_checkpoint
from supernets.errors import TrainingError, WorkerLostError

ASKED = {"policy": "uniform", "options": {"batch_size": 15, "log_every_steps": 1}, "epochs": 1, "seed": 3}


@pytest.mark.ray
def test_two_ray_workers_train_what_one_process_trains(images: Path, tmp_path: Path) -> None:
    events: list[object] = []
    source = str(images)
    found = nas.train(**ASKED, data=source, output=tmp_path / "ray", launcher="ray", workers=2, progress=events.append)  # type: ignore[arg-type]
    assert found.steps == 2
    assert found.run == tmp_path / "ray"
    assert found.accuracy.keys() == {"smallest", "middle", "largest"}
    assert [event.step for event in events if type(event).__name__ == "TrainingProgress"] == [1, 2]  # type: ignore[attr-defined]
    alone = nas.train(**ASKED, data=source, output=tmp_path / "alone", device="cpu")  # type: ignore[arg-type]
    checkpoints = [read_checkpoint(result.checkpoint) for result in (found, alone)]
    assert checkpoints[0].metadata["training"]["workers"] == 2
    losses = [checkpoint.metadata["training"]["loss"] for checkpoint in checkpoints]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    # In single precision: what AdamW makes of gradients that are nothing but rounding is left out.
    name = "network.head.classifier.weight"
    assert torch.allclose(checkpoints[0].weights[name], checkpoints[1].weights[name], atol=1e-4)
    with pytest.raises(nas.RunError, match="holds a run already"):
        nas.train(**ASKED, output=tmp_path / "ray", launcher="ray", workers=2)  # type: ignore[arg-type]


def test_what_one_worker_says_itself_comes_before_what_the_others_miss() -> None:
    lost, own = WorkerLostError("gone", hint=""), TrainingError("loss is nan", hint="")
    assert _first_cause([lost, own]) is own
    assert _first_cause([lost]) is lost


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"workers": 2}, "`workers` without `launcher`"),
        ({"launcher": "ray"}, "`launcher` without `workers`"),
        ({"launcher": "slurm", "workers": 2}, "launcher `slurm` is not known, expected `ray`"),
    ],
)
def test_launchers_that_make_no_sense(asked: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        nas.train(**asked)  # type: ignore[arg-type]
