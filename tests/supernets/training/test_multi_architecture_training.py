"""Training by multi-architectural sampling with token mixing: stopped anywhere, it goes on to the same bits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search_spaces.resnas import ResnasSpace
from search_spaces.resnas_definitions import RESNAS_MINI
from supernets import Supernet
from supernets.data.image_data import ImageData
from supernets.training.events import Callbacks, TrainingProgress
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet

SETTINGS = TrainingSettings(
    epochs=6,
    batch_size=8,
    learning_rate=1e-3,
    policy="multi-architecture",
    mixing="token",
    checkpoint_every_seconds=0.0,
    log_every_steps=1,
)


class Crash(Exception):
    """Stands for whatever ends a process without warning."""


def trained(data: ImageData, folder: Path, settings: TrainingSettings, *stops: int) -> dict[str, torch.Tensor]:
    """The weights of a training that was broken off after each of some steps."""

    def crash(progress: TrainingProgress) -> None:
        if progress.step in stops and progress.step not in seen:
            seen.add(progress.step)
            raise Crash

    seen: set[int] = set()
    space = ResnasSpace(replace(RESNAS_MINI, patch_classifier=True), classes=2)
    for _ in stops:
        with pytest.raises(Crash):
            train_supernet(Supernet(space), data, settings, folder, resume=True, callbacks=Callbacks(progress=crash))
    supernet = Supernet(space)
    train_supernet(supernet, data, settings, folder, resume=True, callbacks=Callbacks(progress=crash))
    return supernet.state_dict()


def test_a_training_that_was_stopped_ends_with_the_same_bits(data: ImageData, tmp_path: Path) -> None:
    """In the middle of an epoch and at the end of one; heads are sorted before the first and the second."""
    expected = trained(data, tmp_path / "uninterrupted", SETTINGS)
    found = trained(data, tmp_path / "stopped", SETTINGS, 3, 5)
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_both_executions_train_the_same_network(data: ImageData, tmp_path: Path) -> None:
    losses = []
    for execution in ("masked", "sliced"):
        settings = replace(SETTINGS, epochs=4, learning_rate=1e-4, execution=execution)  # type: ignore[arg-type]
        trained(data, tmp_path / execution, settings)
        log = (tmp_path / execution / "training.jsonl").read_text(encoding="utf-8").splitlines()
        losses.append([json.loads(line)["loss"] for line in log])
    assert len(set(losses[0])) == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
