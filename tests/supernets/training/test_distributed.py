"""Several processes that train one supernet are one process, up to rounding; one that is lost is missed in words."""

from __future__ import annotations

import dataclasses
import json
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces import get_space
from supernets.checkpoint import read_checkpoint
from supernets.data.image_data import ImageData
from supernets.errors import TrainingError
from supernets.supernet import Supernet
from supernets.training.distributed import ProcessGroup, join_process_group
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet
from tests.support import distributed_training
from tests.support.distributed_training import train_together
from tests.support.forked import ended, fork

SCRIPT = Path(distributed_training.__file__)
SETTINGS = TrainingSettings(epochs=1, batch_size=15, learning_rate=2e-3, checkpoint_every_seconds=0, log_every_steps=1)


def launch(images: Path, folder: Path, processes: int = 2, **asked: Any) -> subprocess.CompletedProcess[str]:
    settings = {**SETTINGS.to_dict(), **asked}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["--monitor-interval=3"] if "lost_at" in asked else []  # torchrun waits longer
    command += [str(SCRIPT), str(images), str(folder), json.dumps(settings)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def fork_two(images: Path, folder: Path, **asked: Any) -> list[str]:
    """What two processes say on standard output, whose environment is the one that `torchrun` makes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    together["TORCHELASTIC_RUN_ID"] = "together"
    logs = [folder.with_name(f"{folder.name}-{rank}") for rank in range(2)]
    work = partial(train_together, str(images), str(folder), json.dumps({**SETTINGS.to_dict(), **asked}), **together)
    processes = [
        fork(partial(work, RANK=str(rank), LOCAL_RANK=str(rank)), log, log.with_suffix(".errors"))
        for rank, log in enumerate(logs)
    ]
    for process, log in zip(processes, logs, strict=True):
        assert ended(process, 120) == 0, log.with_suffix(".errors").read_text()
    return [line for log in logs for line in log.read_text().splitlines()]


def largest_difference(folders: tuple[Path, Path], dtype: torch.dtype) -> float:
    left, right = (read_checkpoint(folder / "supernet.safetensors").weights for folder in folders)
    assert {tensor.dtype for tensor in left.values()} == {dtype, torch.int64}
    return max(float((tensor.double() - right[name].double()).abs().max()) for name, tensor in left.items())


@pytest.mark.parametrize(("space", "policy"), [("elastic-mini", "sandwich"), ("mixers-mini", "uniform")])
def test_two_processes_end_with_the_weights_of_one(
    images: Path, data: ImageData, tmp_path: Path, space: str, policy: str
) -> None:
    # In double precision: AdamW makes whole steps of gradients that are nothing but rounding, such as those of a bias
    # in front of BatchNorm, so in single precision such tensors differ whatever one does.
    changes: dict[str, Any] = {"ema_decay": 0.9, "accumulate": 1, "clipping": "adaptive", "gradient_clip": 0.1}
    changes["policy"] = policy
    found = fork_two(images, tmp_path / "two", dtype="float64", space=space, **changes)
    reports = [line for line in found if not line.startswith("[Gloo]")]  # PyTorch 2.9 adds its own
    assert reports == ["1", "2"]  # the first process alone reports
    supernet = Supernet(get_space(space, 2)).double()
    train_supernet(supernet, data, dataclasses.replace(SETTINGS, **changes), tmp_path / "one")
    assert largest_difference((tmp_path / "one", tmp_path / "two"), torch.float64) < 1e-5
    logs = [(tmp_path / name / "training.jsonl").read_text().splitlines() for name in ("one", "two")]
    losses = [[json.loads(line)["loss"] for line in log] for log in logs]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    averages = [read_checkpoint(tmp_path / name / "supernet.safetensors").averages for name in ("one", "two")]
    assert max(float((averages[0][name] - averages[1][name]).abs().max()) for name in averages[0]) < 1e-5


def test_a_lost_worker_is_missed_in_words_and_training_goes_on_with_one(
    images: Path, data: ImageData, tmp_path: Path
) -> None:
    found = launch(images, tmp_path, lost_at=1, policy="uniform")
    assert found.returncode != 0
    assert "error: training: another worker of this training is gone, or cannot be reached" in found.stderr
    assert "start the same command again with `--resume RUN`" in found.stderr
    assert "Traceback" not in found.stderr.split("error: training")[0]
    assert read_checkpoint(tmp_path / "supernet.safetensors").metadata["step"] == 1
    settings = dataclasses.replace(SETTINGS, policy="uniform")
    result = train_supernet(Supernet(get_space("elastic-mini", 2)), data, settings, tmp_path, resume=True)
    assert result.steps == 2
    assert read_checkpoint(result.checkpoint).metadata["training"]["workers"] == 1


def test_a_process_of_its_own_has_nobody_to_talk_to() -> None:
    with join_process_group("cpu") as group:
        assert (group.rank, group.count, group.is_main_process) == (0, 1, True)
        assert group.sum([1.5, 2.0]) == [1.5, 2.0]
        assert group.broadcast({"a": 1}) == {"a": 1}


def test_fewer_images_than_workers_are_refused(data: ImageData, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, batch_size=3)
    with pytest.raises(TrainingError, match="3 images per step for 4 workers and 1 parts each"):
        train_supernet(Supernet(get_space("elastic-mini", 2)), data, settings, tmp_path, group=ProcessGroup(0, 4))
