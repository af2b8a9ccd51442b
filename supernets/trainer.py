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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from search_spaces import Architecture, SingleSpace
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
from supernets.losses import label_loss, target_loss
from supernets.optimizer import load_optimizer_state, make_optimizer, optimizer_state
from supernets.progressive import mean_of_rest, phase_at, phase_costs, training_phases
from supernets.sampling import Sampler, begin_sampling, get_policy
from supernets.schedule import Schedule, is_check, keep_pace, steps_within
from supernets.supernet import Supernet
from supernets.training_settings import CHANGEABLE, TrainingSettings

LOG_NAME = "training.jsonl"
COLD_STEPS, TIMED_STEPS, TIMED_SHARE = 8, 10, 0.05
"""A budget is turned into steps by timing up to this many, after some cold ones, or this share of the budget."""
TIMED_STRIDE = 97
"""Between the steps that are timed, so that they are no neighbours, whose networks may cost alike."""
_SETTINGS_OF_OLD = {"progressive": False}
"""What trainings were that were begun by a release without these settings."""


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
        self.sampler = self._new_sampler()
        self.steps_per_epoch = data.steps_per_epoch(settings.batch_size)
        self.schedule = Schedule(settings.epochs * self.steps_per_epoch, settings.warmup)
        self.optimizer = make_optimizer(supernet, settings)
        self.phases = training_phases(settings.progressive)
        costs = phase_costs(supernet.space, supernet.space.largest, self.phases)
        self.weights = [cost.share for cost in costs]
        """Seconds of a step in each phase up to a common factor; a guess from MACs until steps are timed."""
        self.step = 0
        self.elapsed = 0.0
        self.loss = math.nan
        self.started = time.monotonic()
        supernet.train()

    @property
    def seconds(self) -> float:
        return self.elapsed + time.monotonic() - self.started

    @property
    def phase(self) -> int:
        """The index of the phase that the next step is in."""
        return phase_at(self.phases, self.schedule.progress(self.step))

    def begin(self) -> None:
        """Fix the number of steps and write it down, before the first step that depends on it."""
        budget = self.settings.budget_seconds
        if budget is not None:
            self.weights = self._time_phases(TIMED_SHARE * budget)
            steps = steps_within(budget - self.seconds, mean_of_rest(self.phases, self.weights, 0.0))
            self.schedule = Schedule(steps, self.settings.warmup)
            self.sampler = self._new_sampler()
        self._append_log("w", "")
        self.save()

    def restore(self, checkpoint: Checkpoint) -> None:
        restore_weights(checkpoint, self.supernet)
        load_optimizer_state(self.optimizer, self.supernet, checkpoint.optimizer)
        state = checkpoint.metadata["training"]
        self.schedule = Schedule(**state["schedule"])
        self.step, self.elapsed = checkpoint.metadata["step"], state["seconds"]
        self.loss = math.nan if state["loss"] is None else state["loss"]
        self.weights = state.get("phase_weights", self.weights)
        self.sampler.load_state(state.get("policy", {}))
        self._rewind_log()

    def run(self, progress: Callable[[TrainingProgress], None] | None, interrupted: threading.Event) -> TrainingResult:
        durations: deque[float] = deque(maxlen=self.sampler.pace_steps)
        saved = time.monotonic()
        batches = self._batches(self.step)
        while self.step < self.schedule.total_steps:
            began = time.monotonic()
            self._keep_pace(durations)
            phase = self.phase
            coarseness = self.phases[phase].coarseness
            self.loss = self._train_step(self.step, self.schedule.rate(self.step), next(batches), coarseness)
            self.step += 1
            durations.append(time.monotonic() - began)
            self._report(progress, durations, phase)
            if self.phase != phase:
                durations.clear()
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
            architecture=space.architecture.to_dict() if isinstance(space, SingleSpace) else None,
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
                "phase_weights": self.weights,
                "policy": self.sampler.state(),
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
            },
        )
        state = optimizer_state(self.optimizer, self.supernet)
        save_checkpoint(self.folder / CHECKPOINT_NAME, self.supernet, state, metadata)

    def _train_step(self, step: int, rate: float, batch: Batch, coarseness: int) -> float:
        device = self.supernet.device
        # Colours last: convolutions on the CPU take a quarter less time.
        images = batch[0].to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = batch[1].to(device, non_blocking=True)
        assignments = self.sampler.assign(step, self.schedule.progress(step))
        torch.manual_seed((self.settings.seed * 1_000_003 + step) % 2**63)
        self.optimizer.zero_grad(set_to_none=True)
        outputs: list[Tensor] = []
        first_loss = math.nan
        for assignment in assignments:
            with self.supernet.borrow(assignment.architecture, coarseness) as subnet:
                logits = subnet(images)
                loss = target_loss(assignment.target, logits, labels, outputs, self.settings.label_smoothing)
                value = loss.item()
                if not math.isfinite(value):
                    raise self._not_finite("loss", value, step, assignment.architecture)
                (loss / len(assignments)).backward()  # type: ignore[no-untyped-call]
            first_loss = first_loss if outputs else value
            outputs.append(logits.detach())
            self._score(assignment.architecture, outputs[-1], labels, step)
        for architecture in self.sampler.stale():
            with torch.no_grad(), self.supernet.borrow(architecture, coarseness) as subnet:
                self._score(architecture, subnet(images), labels, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * self.settings.learning_rate
        norm = nn.utils.clip_grad_norm_(self.supernet.parameters(), self.settings.gradient_clip).item()
        if not math.isfinite(norm):
            raise self._not_finite("gradient norm", norm, step, assignments[0].architecture)
        self.optimizer.step()
        return first_loss

    def _score(self, architecture: Architecture, logits: Tensor, labels: Tensor, step: int) -> None:
        """Tell a policy that learns how well an architecture does on the step's images."""
        if not self.sampler.learns:
            return
        score = -label_loss(logits, labels).item()
        if not math.isfinite(score):
            raise self._not_finite("score", score, step, architecture)
        self.sampler.observe(architecture, score)

    def _new_sampler(self) -> Sampler:
        return begin_sampling(get_policy(self.settings.policy), self.supernet.space, self.settings.seed)

    def _not_finite(self, what: str, value: float, step: int, architecture: Architecture) -> TrainingError:
        return TrainingError(
            f"training: {what} is {value} at step {step} with architecture {architecture.to_json()}",
            hint=f"lower the learning rate (found {self.settings.learning_rate:g}); the last good checkpoint is kept in"
            f" {self.folder / CHECKPOINT_NAME}",
        )

    def _time_phases(self, limit: float) -> list[float]:
        """Seconds of a step in each phase, timed on some of the first steps, whose effects are undone."""
        before = {name: tensor.clone() for name, tensor in self.supernet.state_dict().items()}
        count = len(self.phases)
        ends = [self.seconds + limit * (index + 1) / count for index in range(count)]
        seconds = [self._time_steps(phase.coarseness, end) for phase, end in zip(self.phases, ends, strict=True)]
        self.supernet.load_state_dict(before)
        self.optimizer = make_optimizer(self.supernet, self.settings)
        return seconds

    def _time_steps(self, coarseness: int, end: float) -> float:
        """Seconds of a step, timed until ``end`` at most.

        The lower quartile: what made the slower ones slow is mostly gone later, and a schedule that turns out too long
        is shortened, while one that is too short would leave time unused.
        """
        batches = self._batches(0)
        durations: list[float] = []
        while len(durations) < COLD_STEPS + TIMED_STEPS and (len(durations) <= COLD_STEPS or self.seconds < end):
            began = time.monotonic()
            self._train_step(len(durations) * TIMED_STRIDE, 0.0, next(batches), coarseness)
            durations.append(time.monotonic() - began)
        return float(np.quantile(durations[COLD_STEPS:], 0.25))

    def _step_seconds(self, durations: deque[float], phase: int) -> float:
        """Expected seconds of a step, on average over the rest of the training, from those of steps of one phase."""
        rest = mean_of_rest(self.phases, self.weights, self.schedule.progress(self.step))
        return sum(durations) / len(durations) * rest / self.weights[phase]

    def _keep_pace(self, durations: deque[float]) -> None:
        budget = self.settings.budget_seconds
        if budget is None or not durations or not is_check(self.schedule, self.step):
            return
        schedule = keep_pace(self.schedule, self.step, self.seconds, self._step_seconds(durations, self.phase), budget)
        if schedule != self.schedule:
            self.schedule = schedule
            self.save()

    def _batches(self, step: int) -> Iterator[Batch]:
        epoch, start = divmod(step, self.steps_per_epoch)
        while True:
            yield from self.data.train_batches(self.settings.batch_size, self.settings.seed, epoch, start)
            epoch, start = epoch + 1, 0

    def _report(self, progress: Callable[[TrainingProgress], None] | None, durations: deque[float], phase: int) -> None:
        done, total = self.step, self.schedule.total_steps
        speed = min(self.settings.batch_size, self.data.splits["train"]) * len(durations) / sum(durations)
        if done % self.settings.log_every_steps == 0 or done == total:
            line = {
                "step": done,
                "total_steps": total,
                "loss": self.loss,
                "coarseness": self.phases[phase].coarseness,
                "learning_rate": self.schedule.rate(done - 1) * self.settings.learning_rate,
                "images_per_second": round(speed, 2),
                "seconds": round(self.seconds, 2),
            }
            self._append_log("a", json.dumps(line) + "\n")
        if progress:
            eta = (total - done) * self._step_seconds(durations, phase)
            progress(TrainingProgress(done, total, self.loss, speed, eta))

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


def _check_same(checkpoint: Checkpoint, data: ImageData, settings: TrainingSettings) -> None:
    data.check(checkpoint.metadata["data"])
    recorded = {**_SETTINGS_OF_OLD, **checkpoint.metadata["settings"]}
    asked = settings.to_dict()
    for name in asked:
        if name not in CHANGEABLE and recorded.get(name) != asked[name]:
            raise TrainingError(
                f"training setting `{name}`: found {asked[name]}, but the training in `{checkpoint.path.parent}` has"
                f" {recorded.get(name)}",
                hint="resume with the same settings, or train into a new run folder",
            )
