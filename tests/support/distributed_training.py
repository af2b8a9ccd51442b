"""One process of a training of several, for the tests: ``torchrun distributed_training.py IMAGES FOLDER SETTINGS``."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from search_spaces import get_space
from supernets.data.sources import load_data
from supernets.errors import SupernetError
from supernets.supernet import Supernet
from supernets.training.distributed import join_process_group
from supernets.training.events import Callbacks, TrainingProgress
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet


def train_together(images: str, folder: str, text: str, **environment: str) -> None:
    """One process of a training, which finds the others by what its environment says."""
    os.environ.update(environment)
    asked = json.loads(text)
    lost_at, resume = asked.pop("lost_at", None), asked.pop("resume", False)
    dtype, space = getattr(torch, asked.pop("dtype", "float32")), asked.pop("space", "elastic-mini")
    with join_process_group("cpu") as group:
        supernet = Supernet(get_space(space, 2)).to(dtype)

        def report(progress: TrainingProgress) -> None:
            sys.stdout.write(f"{progress.step}\n")
            sys.stdout.flush()

        data = load_data(images, 32, workers=0)
        batches = data.train_batches

        def watched(*args: object, **kwargs: object) -> object:
            for step, batch in enumerate(batches(*args, **kwargs)):  # type: ignore[arg-type]
                if step == lost_at and group.rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        data.train_batches = watched  # type: ignore[assignment, method-assign]
        settings = TrainingSettings.from_dict(asked)
        train_supernet(
            supernet, data, settings, Path(folder), resume=resume, callbacks=Callbacks(progress=report), group=group
        )


if __name__ == "__main__":
    try:
        train_together(*sys.argv[1:])
    except SupernetError as error:
        sys.exit(f"error: {error}\nhint: {error.hint}")
