"""Training a supernet in a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import RunError, UsageError
from nas.evaluate import SupernetEvaluator
from nas.files import write_json
from nas.progress import Progress, StageStarted, ignore
from nas.run import Run, next_run_folder
from nas.settings import check_same, recorded_settings

if TYPE_CHECKING:
    from supernets.data import ImageData
    from supernets.supernet import Supernet
    from supernets.trainer import TrainingSettings

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TrainResult:
    """A trained supernet.

    Attributes:
        run: The run folder.
        checkpoint: The file with the shared weights.
        steps: Optimiser steps in all.
        epochs: Passes over the training images.
        seconds: Time trained, over all sessions.
        accuracy: Of the smallest, middle and largest network on the search part of the images, in [0, 1].
    """

    run: Path
    checkpoint: Path
    steps: int
    epochs: float
    seconds: float
    accuracy: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """What ``training.json`` holds."""
        return {
            "schema": 1,
            "run": str(self.run),
            "checkpoint": str(self.checkpoint.relative_to(self.run)),
            "steps": self.steps,
            "epochs": self.epochs,
            "seconds": self.seconds,
            "accuracy": self.accuracy,
        }


def train(
    space: str | None = None,
    data: str | None = None,
    *,
    epochs: int | None = None,
    budget_seconds: float | None = None,
    seed: int | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    force: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the supernet of a space on images.

    Args:
        space: Name of the search space; ``elastic-mini`` unless given.
        data: ``digits``, a folder of images, or a dataset of timm.data; ``digits`` unless given.
        epochs: Passes over the training images.
        budget_seconds: Time to train for, in place of ``epochs``.
        seed: Of weights, networks and images.
        output: Run folder; ``runs/<space>-supernet-<n>`` unless given.
        resume: Go on in ``output``. Whatever is not given is taken from there, whatever is given must agree.
        force: Throw away what ``output`` holds first.
        device: For example ``cuda``; the first GPU if there is one, else the CPU.
        progress: Receives `nas.progress.StageStarted` and `supernets.trainer.TrainingProgress`.

    Raises:
        UsageError: Both ``epochs`` and ``budget_seconds`` are given, or there is nothing to resume.
        RunError: The folder cannot be used.
        DataError: The images cannot be used.
    """
    if epochs is not None and budget_seconds is not None:
        raise UsageError("both `epochs` and `budget_seconds` are given, expected one of them")
    given = {"space": space, "data": data, "epochs": epochs, "budget_seconds": budget_seconds, "seed": seed}
    recorded = _recorded(output, given) if resume else None
    defaults = {"space": "elastic-mini", "data": "digits", "epochs": None, "budget_seconds": None, "seed": 0}
    settings = recorded or {**defaults, **{name: value for name, value in given.items() if value is not None}}

    from search_spaces import get_space
    from supernets.data import load_data

    images = load_data(settings["data"], get_space(settings["space"]).image_side)
    training = training_settings(settings["epochs"], settings["budget_seconds"], settings["seed"])
    folder = Path(output) if output is not None else next_run_folder(f"{settings['space']}-supernet")
    document = {"command": "train", **{name: settings[name] for name in defaults}}
    with Run(folder, document, seed=settings["seed"], resume=resume, force=force) as run:
        result, _ = train_in_run(run, settings["space"], images, training, device, progress or ignore)
        write_json(run.path / "training.json", result.to_dict())
    return result


def train_in_run(
    run: Run, space: str, images: ImageData, training: TrainingSettings, device: str | None, progress: Progress
) -> tuple[TrainResult, Supernet]:
    """Train, or finish training, the supernet of an open run folder."""
    from search_spaces import get_space
    from supernets.supernet import Supernet
    from supernets.trainer import train_supernet

    progress(StageStarted("training", training.budget_seconds))
    supernet = Supernet(get_space(space, classes=images.classes), seed=training.seed).to(choose_device(device))
    outcome = train_supernet(
        supernet, images, training, run.path / CHECKPOINTS, resume=run.is_resumed, progress=progress
    )
    evaluator = SupernetEvaluator(supernet, images, training.seed)
    networks = {name: supernet.space.find(name) for name in ("smallest", "middle", "largest")}
    accuracy = {name: evaluator.evaluate(network, training.seed).objective for name, network in networks.items()}
    result = TrainResult(run.path, outcome.checkpoint, outcome.steps, outcome.epochs, outcome.seconds, accuracy)
    return result, supernet


def training_settings(epochs: int | None, budget_seconds: float | None, seed: int) -> TrainingSettings:
    """Training settings with the trainer's own defaults for what is None."""
    from supernets.trainer import TrainingSettings

    if epochs is None:
        return TrainingSettings(budget_seconds=budget_seconds, seed=seed)
    return TrainingSettings(epochs=epochs, seed=seed)


def choose_device(device: str | None) -> str:
    """``device``, or the first GPU if there is one, else the CPU."""
    import torch

    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def supernet_checkpoint(path: Path) -> Path:
    """The checkpoint of a run folder, or the checkpoint itself."""
    from supernets.checkpoint import CHECKPOINT_NAME

    return path / CHECKPOINTS / CHECKPOINT_NAME if path.is_dir() else path


def _recorded(output: Path | str | None, given: dict[str, Any]) -> dict[str, Any] | None:
    if output is None:
        raise UsageError("`resume` without `output`, expected the run folder to go on in")
    folder = Path(output)
    recorded = recorded_settings(folder)
    if recorded is None:
        return None
    if recorded.get("command") != "train":
        raise RunError(f"run folder `{folder}` holds a `{recorded.get('command')}` run, expected a training")
    for name, value in given.items():
        if value is not None:
            check_same(folder, name, recorded.get(name), value)
    return recorded
