"""A training in its run folder: the processes that train together, and what comes out.

One process writes; those beside it are told what to train.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.evaluation.accuracy import guessed
from nas.evaluation.evaluators import SupernetEvaluator
from nas.events import Progress, StageClock, StageStarted, ignore
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION
from nas.records.files import write_json
from nas.runs.folder import CHECKPOINTS, seconds_left
from nas.runs.places import check_images, identity_of
from nas.runs.run import Run, next_run_folder
from nas.runs.settings import Given
from nas.runs.settings_file import write_settings
from nas.runs.torch_device import choose_device
from nas.training.heeding import named_teacher
from nas.training.request import (
    check_named_teachers,
    check_random_weights,
    default_policy,
    find_space,
    form_to_train,
    load_images,
    run_settings,
    trainer_settings,
)
from nas.training.settings import TrainSettings
from nas.training.tracking import tracked
from search_spaces import Architecture, SearchSpace, SingleSpace, get_space

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.training.distributed import ProcessGroup
    from supernets.training.progressive import PhaseCost
    from supernets.training.settings import TrainingSettings
    from supernets.training.targets import Teacher


@dataclass(frozen=True)
class TrainResult:
    """A trained supernet, or a trained network.

    Attributes:
        run: The run folder.
        checkpoint: The file with the weights.
        steps: Optimiser steps in all.
        epochs: Passes over the training images.
        seconds: Time trained, over all sessions.
        accuracy: Accuracy on the search part of the images, in [0, 1]: of the networks that represent the space, by
            name, or of the one ``network``.
        commonest_accuracy: Accuracy of always saying the commonest class of that part, in [0, 1].
        figure: What accuracy is called in ``training.json``: where images have several labels, mean average precision
            takes its place, and beside it stands that of guessing, ``prior``.
        architecture: Architecture of the one network; None for a supernet.
        phases: What an image cost in each phase of the training, as `supernets.training.progressive.PhaseCost`.
    """

    run: Path
    checkpoint: Path
    steps: int
    epochs: float
    seconds: float
    accuracy: dict[str, float]
    commonest_accuracy: float
    architecture: Architecture | None
    phases: tuple[PhaseCost, ...]
    figure: str = ACCURACY

    def to_dict(self) -> dict[str, Any]:
        """What ``training.json`` holds."""
        return {
            "schema": 1,
            "run": str(self.run),
            "checkpoint": str(self.checkpoint.relative_to(self.run)),
            "steps": self.steps,
            "epochs": self.epochs,
            "seconds": self.seconds,
            self.figure: self.accuracy,
            "commonest_accuracy" if self.figure == ACCURACY else "prior": self.commonest_accuracy,
            "architecture": None if self.architecture is None else self.architecture.to_dict(),
            "phases": [asdict(phase) for phase in self.phases],
        }


@dataclass(frozen=True)
class Start:
    """What a training begins with in place of random weights.

    Attributes:
        supernet: Its tensors are trained.
        teacher: A teacher beside the labels; None for none.
    """

    supernet: Supernet
    teacher: Teacher | None = None


def train_together(given: Given) -> TrainResult:
    """Train what is given in this process, with those that were started beside it where there are any.

    Args:
        given: Settings of `nas.training.settings.TrainSettings`; all processes get the same, but for the device.

    Raises:
        NasError, SupernetError, SearchSpaceError: As `nas.train`.
    """
    from supernets.training.distributed import join_process_group

    progress = given.get("progress", ignore)
    with join_process_group(choose_device(given.get("device"))) as group:
        if not group.is_main_process:
            return _train_beside(group, progress)
        return _train_first(run_settings(given), group, progress)


@dataclass(frozen=True)
class _Plan:
    """What is trained, and where; JSON-ready through `asdict`, to tell the other processes."""

    settings: dict[str, Any]
    run: str
    is_resumed: bool


def _train_first(settings: TrainSettings, group: ProcessGroup, progress: Progress) -> TrainResult:
    """Train in the process that writes."""
    from supernets.training.trainer import check_suits_several_labels

    clock = StageClock(progress)
    progress = clock
    found = find_space(settings)
    training = trainer_settings(settings)
    # What cannot be trained fails here, before anything is written.
    form_to_train(found, training, found.image_side)
    found.lower(found.largest, patch_stride=2 if training.progressive else 1)
    _networks(found, settings.validate)
    check_named_teachers(training)
    check_random_weights(training)
    images = load_images(settings, found, training)
    if images.has_several_labels:
        check_suits_several_labels(training, images.source)
    epochs = "" if training.budget_seconds is not None else f" of {training.epochs:g} epochs"
    begun = None if settings.folder is None or not settings.resume else settings.folder / CHECKPOINTS
    clock.plan({f"training{epochs}": seconds_left(training.budget_seconds, begun)})
    folder = settings.folder or next_run_folder(settings.folder_name)
    document = {"command": "train", **settings.recorded(), **identity_of(images)}
    with (
        Run(folder, document, seed=settings.seed, resume=settings.resume, force=settings.force) as run,
        ExitStack() as stack,
    ):
        if run.is_resumed:
            check_images(images, run.settings)
            run.note_places(settings.recorded())
        asked = settings.to_repeat()
        write_settings(run.path, "train", asked)
        names = [*settings.track, *(["tensorboard"] if settings.tensorboard else [])]
        progress = stack.enter_context(tracked(names, run.path, asked, progress, training.log_every_steps))
        group.broadcast(asdict(_Plan(settings.recorded(), str(run.path), run.is_resumed)))
        work = _Work(run.path, run.is_resumed, settings.space, images, training, found.architecture)
        result, _ = _train(work, group, progress, settings.validate)
        write_json(run.path / "training.json", result.to_dict())
        clock.end()
        run.note_stages(clock.seconds)
    return result


def _train_beside(group: ProcessGroup, progress: Progress) -> TrainResult:
    """Train in a process beside the one that writes."""
    plan = _Plan(**group.broadcast(None))
    settings = TrainSettings.from_record(plan.settings)
    found = find_space(settings)
    training = trainer_settings(settings)
    images = load_images(settings, found, training, is_quiet=True)
    work = _Work(Path(plan.run), plan.is_resumed, settings.space, images, training, found.architecture)
    return _train(work, group, progress)[0]


def train_in_run(
    run: Run,
    space: str,
    images: ImageData,
    training: TrainingSettings,
    device: str | None,
    progress: Progress,
    architecture: Architecture | None = None,
    start: Start | None = None,
) -> tuple[TrainResult, Supernet]:
    """Train, or finish training, the supernet of an open run folder, or the one network ``architecture``."""
    import torch

    from supernets.training.distributed import ProcessGroup

    group = ProcessGroup(device=torch.device(choose_device(device)))
    work = _Work(run.path, run.is_resumed, space, images, training, architecture)
    return _train(work, group, progress, start=start)


@dataclass(frozen=True)
class _Work:
    """What one process trains; ``architecture`` is None for a supernet."""

    folder: Path
    is_resumed: bool
    space: str
    images: ImageData
    training: TrainingSettings
    architecture: Architecture | None


def _train(
    work: _Work, group: ProcessGroup, progress: Progress, validate: Sequence[str] = (), start: Start | None = None
) -> tuple[TrainResult, Supernet]:
    """Train with a group, and judge what came out."""
    from supernets.checkpoint import load_supernet
    from supernets.supernet import Supernet
    from supernets.training.events import Callbacks
    from supernets.training.progressive import phase_costs, training_phases
    from supernets.training.trainer import train_supernet

    images, training, architecture = work.images, work.training, work.architecture
    progress(StageStarted("training", training.budget_seconds))
    found = get_space(work.space, classes=images.classes)
    if architecture is not None:
        found = SingleSpace(found, architecture)
    found = form_to_train(found, training, images.image_side)
    phases = phase_costs(found, found.largest, training_phases(training.progressive))
    if len(phases) > 1:
        for phase in phases:
            progress(phase)
    supernet = (Supernet(found, seed=training.seed) if start is None else start.supernet).to(group.device)
    teacher = None if start is None else start.teacher
    if teacher is None:
        training, teacher = named_teacher(training, images, group, progress)
    validator = _Validator(_networks(found, validate), images, training.seed) if validate else None
    outcome = train_supernet(
        supernet,
        images,
        training,
        work.folder / CHECKPOINTS,
        resume=work.is_resumed,
        callbacks=Callbacks(progress, progress, validator),
        teacher=teacher,
        group=group,
    )
    accuracy: dict[str, float] = {}
    commonest = 0.0
    if group.is_main_process:
        if training.ema_decay is not None:
            supernet, _ = load_supernet(outcome.checkpoint, group.device)
        networks = _networks(found, found.representatives if architecture is None else ())
        accuracy = _Validator(networks or {"network": found.largest}, images, training.seed)(supernet)
        commonest = guessed(images, "search")
    accuracy, commonest = group.broadcast((accuracy, commonest))
    result = TrainResult(
        run=work.folder,
        checkpoint=outcome.checkpoint,
        steps=outcome.steps,
        epochs=outcome.epochs,
        seconds=outcome.seconds,
        accuracy=accuracy,
        commonest_accuracy=commonest,
        architecture=architecture,
        phases=tuple(phases),
        figure=AVERAGE_PRECISION if images.has_several_labels else ACCURACY,
    )
    return result, supernet


@dataclass(frozen=True)
class _Validator:
    """Accuracy of some subnets on the search part of the images, each with BatchNorm statistics of its own."""

    networks: Mapping[str, Architecture]
    images: ImageData
    seed: int

    def __call__(self, supernet: Supernet) -> dict[str, float]:
        evaluator = SupernetEvaluator(supernet, self.images, self.seed)
        return {name: evaluator.evaluate(network, self.seed).objective for name, network in self.networks.items()}


def _networks(space: SearchSpace, names: Sequence[str]) -> dict[str, Architecture]:
    """Networks of a space by name; that of a space of one goes by any name of a size."""
    if space.architecture is not None and names:
        return {"network": space.architecture}
    return {name: space.find(name) for name in names}


def training_settings(epochs: int | None, budget_seconds: float | None, seed: int) -> TrainingSettings:
    """Settings of a supernet's training, with the trainer's own defaults for what is None."""
    from supernets.training.settings import TrainingSettings

    policy = default_policy(budget_seconds, None)
    if epochs is None:
        return TrainingSettings(budget_seconds=budget_seconds, seed=seed, policy=policy)
    return TrainingSettings(epochs=epochs, seed=seed, policy=policy)
