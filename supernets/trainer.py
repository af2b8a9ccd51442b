"""Supernet training that can be killed at any moment and goes on as if nothing had happened.

Everything random comes from (seed, step): architectures, batches, augmentation. A checkpoint holds the rest: weights,
moments, step and schedule. On the CPU a resumed run therefore ends with the same bits as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import Architecture
from supernets.checkpoint import (
    CHECKPOINT_NAME,
    SCHEMA,
    Checkpoint,
    CheckpointMetadata,
    read_checkpoint,
    restore_weights,
    save_checkpoint,
    write_atomically,
)
from supernets.data import Batch, ImageData
from supernets.errors import CheckpointError, TrainingError
from supernets.interruptions import deferred_interrupt, reproducible
from supernets.losses import distillation_loss, label_loss
from supernets.sampling import get_policy
from supernets.schedule import Schedule, is_check, keep_pace, steps_within
from supernets.supernet import Supernet

LOG_NAME = "training.jsonl"
COLD_STEPS, TIMED_STEPS, TIMED_SHARE = 8, 10, 0.05
"""A budget is turned into steps by timing up to this many, after some cold ones, or this share of the budget."""
PACE_STEPS = 20
CHANGEABLE = ("checkpoint_every_seconds", "log_every_steps")
"""Settings that do not change what is computed, so a resumed run may have others."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train a supernet; JSON-ready through `to_dict`.

    Attributes:
        epochs: Passes over the training images.
        budget_seconds: Time to train for, in place of ``epochs``; turned once into a number of steps.
        batch_size: Images per step; every architecture of the step sees all of them.
        learning_rate: Peak of the schedule, for AdamW.
        weight_decay: Of matrices and kernels; biases and other one-dimensional tensors have none.
        label_smoothing: Share of each label that is spread over all classes.
        warmup: Share of the training in which the learning rate rises.
        gradient_clip: Largest norm of the gradient.
        seed: Of architectures, order and augmentation.
        policy: Name of the sampling policy.
        checkpoint_every_seconds: Least time between checkpoints.
        log_every_steps: Steps between lines of the training log.
    """

    epochs: int = 22
    budget_seconds: float | None = None
    batch_size: int = 32
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warmup: float = 0.1
    gradient_clip: float = 1.0
    seed: int = 0
    policy: str = "sandwich"
    checkpoint_every_seconds: float = 30.0
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "learning_rate", "gradient_clip", "log_every_steps")
        for name in positive:
            if not getattr(self, name) > 0:
                raise TrainingError(f"training setting `{name}`: found {getattr(self, name)}, expected more than 0")
        if self.budget_seconds is not None and not self.budget_seconds > 0:
            raise TrainingError(f"training setting `budget_seconds`: found {self.budget_seconds}, expected more than 0")
        for name in ("label_smoothing", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainingError(f"training setting `{name}`: found {getattr(self, name)}, expected 0 to 1")
        if not (self.weight_decay >= 0 and self.seed >= 0):
            raise TrainingError("training settings `weight_decay` and `seed`: expected 0 or more")
        get_policy(self.policy)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` gives back equal settings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingSettings:
        """Read what `to_dict` wrote.

        Raises:
            TrainingError: There is a setting that is not known, or one out of range.
        """
        unknown = sorted(data.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise TrainingError(f"training setting `{unknown[0]}`: not known to this release")
        return cls(**data)


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands after a step.

    Attributes:
        step: Steps done.
        total_steps: Of the whole training.
        loss: Of the step's first architecture on the labels.
        images_per_second: Training images per second of the latest steps, each counted once per step.
        eta_seconds: Expected time to the end.
    """

    step: int
    total_steps: int
    loss: float
    images_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves.

    Attributes:
        checkpoint: The file with the trained supernet.
        steps: Steps in all.
        epochs: Passes over the training images.
        seconds: Time trained, over all resumed parts.
        loss: Of the last step's first architecture on the labels.
    """

    checkpoint: Path
    steps: int
    epochs: float
    seconds: float
    loss: float


def train_supernet(
    supernet: Supernet,
    data: ImageData,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool = False,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Train the shared tensors of ``supernet`` in place, on the device that they are on.

    Args:
        supernet: The supernet; a resumed training replaces its tensors by those of the checkpoint.
        data: The images; only its training part is seen.
        settings: How to train.
        folder: Where ``supernet.safetensors`` and ``training.jsonl`` are written.
        resume: Whether to go on from a checkpoint in the folder. Without a checkpoint training starts afresh.
        progress: Called after every step.

    Raises:
        TrainingError: The loss is not finite, the folder holds a training and ``resume`` is off, or a resumed training
            has other settings. The last good checkpoint is kept.
        CheckpointError: A checkpoint cannot be read, is of another space, or cannot be written.
        DataError: The images cannot be read, or are not those of the training that is resumed.
        KeyboardInterrupt: Ctrl-C, after the step was finished and a checkpoint was written.
    """
    if data.classes != supernet.space.classes:
        raise TrainingError(
            f"data `{data.source}` has {data.classes} classes, the supernet of `{supernet.space.name}` tells"
            f" {supernet.space.classes}",
            hint=f"make the space for {data.classes} classes",
        )
    path = folder / CHECKPOINT_NAME
    if path.exists() and not resume:
        raise TrainingError(f"`{folder}` holds a training already", hint="resume it, or choose another folder")
    checkpoint = read_checkpoint(path) if path.exists() else None
    if checkpoint:
        _check_same(checkpoint, data, settings)
    threads = checkpoint.metadata["training"]["threads"] if checkpoint else torch.get_num_threads()
    with reproducible(supernet.device, threads), deferred_interrupt() as interrupted:
        training = _Training(supernet, data, settings, folder)
        if checkpoint:
            training.restore(checkpoint)
        else:
            training.begin()
        return training.run(progress, interrupted)


class _Training:
    """One training in this process."""

    def __init__(self, supernet: Supernet, data: ImageData, settings: TrainingSettings, folder: Path) -> None:
        self.supernet, self.data, self.settings, self.folder = supernet, data, settings, folder
        self.policy = get_policy(settings.policy)
        self.steps_per_epoch = data.steps_per_epoch(settings.batch_size)
        self.schedule = Schedule(settings.epochs * self.steps_per_epoch, settings.warmup)
        self.optimizer = make_optimizer(supernet, settings)
        self.step = 0
        self.elapsed = 0.0
        self.loss = math.nan
        self.started = time.monotonic()
        supernet.train()

    @property
    def seconds(self) -> float:
        return self.elapsed + time.monotonic() - self.started

    def begin(self) -> None:
        """Fix the number of steps and write it down, before the first step that depends on it."""
        budget = self.settings.budget_seconds
        if budget is not None:
            per_step = self._time_steps(TIMED_SHARE * budget)
            steps = steps_within(budget - self.seconds, per_step)
            self.schedule = Schedule(steps, self.settings.warmup)
        self._append_log("w", "")
        self.save()

    def restore(self, checkpoint: Checkpoint) -> None:
        restore_weights(checkpoint, self.supernet)
        load_optimizer_state(self.optimizer, self.supernet, checkpoint.optimizer)
        state = checkpoint.metadata["training"]
        self.schedule = Schedule(**state["schedule"])
        self.step, self.elapsed = checkpoint.metadata["step"], state["seconds"]
        self.loss = math.nan if state["loss"] is None else state["loss"]
        self._rewind_log()

    def run(self, progress: Callable[[TrainingProgress], None] | None, interrupted: threading.Event) -> TrainingResult:
        durations: deque[float] = deque(maxlen=PACE_STEPS)
        saved = time.monotonic()
        batches = self._batches(self.step)
        while self.step < self.schedule.total_steps:
            began = time.monotonic()
            self._keep_pace(durations)
            self.loss = self._train_step(self.step, self.schedule.rate(self.step), next(batches))
            self.step += 1
            durations.append(time.monotonic() - began)
            self._report(progress, sum(durations) / len(durations))
            is_last = self.step == self.schedule.total_steps
            due = time.monotonic() - saved >= self.settings.checkpoint_every_seconds
            if is_last or due or interrupted.is_set():
                self.save()
                saved = time.monotonic()
            if interrupted.is_set():
                raise KeyboardInterrupt
        epochs = self.step / self.steps_per_epoch
        return TrainingResult(self.folder / CHECKPOINT_NAME, self.step, epochs, self.seconds, self.loss)

    def save(self) -> None:
        space = self.supernet.space
        metadata = CheckpointMetadata(
            schema=SCHEMA,
            space=space.name,
            version=space.version,
            classes=space.classes,
            step=self.step,
            total_steps=self.schedule.total_steps,
            data=self.data.describe(),
            settings=self.settings.to_dict(),
            training={
                "schedule": self.schedule.to_dict(),
                "seconds": self.seconds,
                "loss": None if math.isnan(self.loss) else self.loss,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            },
        )
        state = optimizer_state(self.optimizer, self.supernet)
        save_checkpoint(self.folder / CHECKPOINT_NAME, self.supernet, state, metadata)

    def _train_step(self, step: int, rate: float, batch: Batch) -> float:
        device = self.supernet.device
        # Colours last: convolutions on the CPU take a quarter less time.
        images = batch[0].to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = batch[1].to(device, non_blocking=True)
        assignments = self.policy.assignments(self.supernet.space, self.settings.seed, step)
        torch.manual_seed((self.settings.seed * 1_000_003 + step) % 2**63)
        self.optimizer.zero_grad(set_to_none=True)
        first_logits: Tensor | None = None
        first_loss = math.nan
        for assignment in assignments:
            with self.supernet.borrow(assignment.architecture) as subnet:
                logits = subnet(images)
                if assignment.target == "labels" or first_logits is None:
                    loss = label_loss(logits, labels, self.settings.label_smoothing)
                else:
                    loss = distillation_loss(logits, first_logits)
                value = loss.item()
                if not math.isfinite(value):
                    raise self._not_finite("loss", value, step, assignment.architecture)
                (loss / len(assignments)).backward()  # type: ignore[no-untyped-call]
            if first_logits is None:
                first_logits, first_loss = logits.detach(), value
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.settings.learning_rate
        norm = nn.utils.clip_grad_norm_(self.supernet.parameters(), self.settings.gradient_clip).item()
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, step, assignments[0].architecture)
        self.optimizer.step()
        return first_loss

    def _not_finite(self, what: str, value: float, step: int, architecture: Architecture) -> TrainingError:
        return TrainingError(
            f"training: {what} is {value} at step {step} with architecture {architecture.to_json()}",
            hint=f"lower the learning rate (found {self.settings.learning_rate:g}); the last good checkpoint is kept in"
            f" {self.folder / CHECKPOINT_NAME}",
        )

    def _time_steps(self, limit: float) -> float:
        """Seconds of one of the first steps, whose effects on the supernet are undone.

        The lower quartile: what made the slower ones slow is mostly gone later, and a schedule that turns out too long
        is shortened, while one that is too short would leave time unused.
        """
        before = {name: tensor.clone() for name, tensor in self.supernet.state_dict().items()}
        batches = self._batches(0)
        durations: list[float] = []
        while len(durations) < COLD_STEPS + TIMED_STEPS and (len(durations) <= COLD_STEPS or self.seconds < limit):
            began = time.monotonic()
            self._train_step(len(durations), 0.0, next(batches))
            durations.append(time.monotonic() - began)
        self.supernet.load_state_dict(before)
        self.optimizer = make_optimizer(self.supernet, self.settings)
        timed = durations[COLD_STEPS:]
        return float(np.quantile(timed, 0.25))

    def _keep_pace(self, durations: deque[float]) -> None:
        budget = self.settings.budget_seconds
        if budget is None or not durations or not is_check(self.schedule, self.step):
            return
        schedule = keep_pace(self.schedule, self.step, self.seconds, sum(durations) / len(durations), budget)
        if schedule != self.schedule:
            self.schedule = schedule
            self.save()

    def _batches(self, step: int) -> Iterator[Batch]:
        epoch, start = divmod(step, self.steps_per_epoch)
        while True:
            yield from self.data.train_batches(self.settings.batch_size, self.settings.seed, epoch, start)
            epoch, start = epoch + 1, 0

    def _report(self, progress: Callable[[TrainingProgress], None] | None, step_seconds: float) -> None:
        done, total = self.step, self.schedule.total_steps
        speed = min(self.settings.batch_size, self.data.splits["train"]) / step_seconds
        if done % self.settings.log_every_steps == 0 or done == total:
            line = {
                "step": done,
                "total_steps": total,
                "loss": self.loss,
                "learning_rate": self.schedule.rate(done - 1) * self.settings.learning_rate,
                "images_per_second": round(speed, 2),
                "seconds": round(self.seconds, 2),
            }
            self._append_log("a", json.dumps(line) + "\n")
        if progress:
            progress(TrainingProgress(done, total, self.loss, speed, (total - done) * step_seconds))

    def _append_log(self, mode: str, text: str) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / LOG_NAME).open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise TrainingError(
                f"training log `{self.folder / LOG_NAME}`: cannot be written: {error.strerror or error}",
                hint="free some space, then resume",
            ) from error

    def _rewind_log(self) -> None:
        """Drop the lines of steps that will be done again, and one that was cut short."""
        path = self.folder / LOG_NAME
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= self.step]
        try:
            write_atomically(path, b"".join(kept))
        except OSError as error:
            raise CheckpointError(f"`{path}`: cannot be written: {error.strerror or error}") from error


def make_optimizer(supernet: Supernet, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only."""
    parameters = list(supernet.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer, supernet: Supernet) -> dict[str, Tensor]:
    """The moments of every parameter that has some, as ``{"PARAMETER/MOMENT": tensor}``."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in supernet.named_parameters()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, supernet: Supernet, state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = dict(supernet.named_parameters())
    for key, tensor in state.items():
        name, _, moment = key.rpartition("/")
        optimizer.state[parameters[name]][moment] = tensor.to(parameters[name].device)


def _check_same(checkpoint: Checkpoint, data: ImageData, settings: TrainingSettings) -> None:
    data.check(checkpoint.metadata["data"])
    recorded, asked = checkpoint.metadata["settings"], settings.to_dict()
    for name in asked:
        if name not in CHANGEABLE and recorded.get(name) != asked[name]:
            raise TrainingError(
                f"training setting `{name}`: found {asked[name]}, but the training in `{checkpoint.path.parent}` has"
                f" {recorded.get(name)}",
                hint="resume with the same settings, or train into a new run folder",
            )
