"""Supernet training that can be killed at any moment and goes on as if nothing had happened.

Everything random comes from (seed, step): architectures, batches, augmentation. A checkpoint holds the rest: weights,
their average, moments, the loss's scale, step and schedule. On the CPU a resumed run therefore ends with the same bits
as one that was never stopped. Steps are whole: one that was interrupted between its parts is done again.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from search_spaces.interruption import deferred_interrupt
from supernets.checkpoint import (
    CHECKPOINT_NAME,
    SCHEMA,
    Checkpoint,
    CheckpointMetadata,
    read_checkpoint,
    restore_weights,
    save_checkpoint,
)
from supernets.data.image_data import Batch, ImageData
from supernets.errors import TrainingError
from supernets.sampling import Sampler, get_policy
from supernets.supernet import Supernet
from supernets.training.distributed import ProcessGroup
from supernets.training.events import NO_CALLBACKS, Callbacks, Preparation, TrainingProgress, TrainingResult, Validation
from supernets.training.feature_distillation import FeatureTeacher
from supernets.training.log import TrainingLog
from supernets.training.long_tail import class_weights
from supernets.training.optimizer import moments_by_name
from supernets.training.progressive import mean_of_rest, phase_at, phase_costs, training_phases
from supernets.training.reproducibility import reproducible
from supernets.training.schedule import Schedule, steps_within
from supernets.training.settings import CHANGEABLE, LEGACY_DEFAULTS, TrainingSettings
from supernets.training.step import StepContext, TrainStep
from supernets.training.targets import AnyTeacher, make_mix, make_teacher
from supernets.training.throughput import TIMED_SHARE, Throughput, time_steps


def train_supernet(
    supernet: Supernet,
    data: ImageData,
    settings: TrainingSettings,
    folder: Path,
    *,
    resume: bool = False,
    callbacks: Callbacks = NO_CALLBACKS,
    teacher: AnyTeacher | None = None,
    group: ProcessGroup | None = None,
) -> TrainingResult:
    """Train the shared tensors of ``supernet`` in place, on the device that they are on.

    Args:
        supernet: The supernet; a resumed training replaces its tensors by those of the checkpoint. It ends with the
            trained weights; where their average is kept, `supernets.checkpoint.load_supernet` gives that.
        data: The images; only its training part is seen.
        settings: How to train.
        folder: Where ``supernet.safetensors`` and ``training.jsonl`` are written.
        resume: Whether to go on from a checkpoint in the folder. Without a checkpoint training starts afresh.
        callbacks: What is called while the training lasts.
        teacher: A teacher beside the labels, in place of those that ``settings`` name; None for those. What a
            `FeatureTeacher` sees is learnt in place of labels. A resumed training needs the same one.
        group: The processes that train together, see `supernets.training.distributed.join_process_group`; None for
            this one alone. Only the main one reads checkpoints, writes, reports and validates.

    Raises:
        TrainingError: The loss is not finite, the folder holds a training and ``resume`` is off, or a resumed training
            has other settings. The last good checkpoint is kept.
        WorkerLostError: One of several workers is gone. The last good checkpoint is kept.
        CheckpointError: A checkpoint cannot be read, is of another space, or cannot be written.
        DataError: The images cannot be read, or are not those of the training that is resumed.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the step was finished and a checkpoint was written.
    """
    group = group or ProcessGroup(device=supernet.device)
    _check_fits(supernet, data, settings, group, looks_at_labels=not isinstance(teacher, FeatureTeacher))
    path = folder / CHECKPOINT_NAME
    if group.is_main_process and path.exists() and not resume:
        raise TrainingError(f"`{folder}` holds a training already", hint="resume it, or choose another folder")
    checkpoint = _broadcast_checkpoint(path, group)
    if checkpoint:
        _check_same(checkpoint, data, settings)
    threads = checkpoint.metadata["training"]["threads"] if checkpoint else torch.get_num_threads()
    with reproducible(supernet.device, threads), deferred_interrupt(signal.SIGTERM) as interrupted:
        training = _Training(supernet, data, settings, folder, group, callbacks, teacher)
        if checkpoint:
            training.restore(checkpoint)
        else:
            training.begin()
        return training.run(interrupted)


class _Training:
    """One training in this process."""

    def __init__(
        self,
        supernet: Supernet,
        data: ImageData,
        settings: TrainingSettings,
        folder: Path,
        group: ProcessGroup,
        callbacks: Callbacks,
        teacher: AnyTeacher | None,
    ) -> None:
        self.supernet, self.data, self.settings, self.group = supernet, data, settings, group
        self.path, self.log = folder / CHECKPOINT_NAME, TrainingLog(folder, group.is_main_process)
        self.callbacks = callbacks
        self.started = time.monotonic()
        self._prepare_policy()
        self.sampler = self._new_sampler()
        if settings.low_rank and self.sampler.reorders:
            raise TrainingError(
                f"training setting `low_rank`: policy `{settings.policy}` puts shared tensors into another order, which"
                " their factors do not follow",
                hint="take another policy, or leave `low_rank` out",
            )
        self.steps_per_epoch = data.steps_per_epoch(settings.batch_size)
        self.schedule = self._schedule(round((settings.epochs + settings.cooldown_epochs) * self.steps_per_epoch))
        self.mix = make_mix(supernet, settings, group)
        self.teacher = teacher or make_teacher(settings, data, supernet.device)
        self.weights_K = class_weights(settings, data, supernet.device)
        self.train_step = self._new_train_step()
        phases = training_phases(settings.progressive)
        costs = phase_costs(supernet.space, supernet.space.largest, phases)
        # Seconds of a step in each phase are a guess from MACs until steps are timed.
        self.throughput = Throughput(phases, [cost.share for cost in costs], self.sampler.throughput_steps)
        self.step = 0
        self.elapsed = 0.0
        self.loss = math.nan
        supernet.train()

    @property
    def seconds(self) -> float:
        return self.elapsed + time.monotonic() - self.started

    @property
    def phase(self) -> int:
        """The index of the phase that the next step is in."""
        return phase_at(self.throughput.phases, self.schedule.progress(self.step))

    def begin(self) -> None:
        """Fix the number of steps and write it down, before the first step that depends on it."""
        budget = self.settings.budget_seconds
        if budget is not None:
            self.throughput.weights = self._time_phases(TIMED_SHARE * budget)
            seconds = mean_of_rest(self.throughput.phases, self.throughput.weights, 0.0)
            self.schedule = self._schedule(self.group.broadcast(steps_within(budget - self.seconds, seconds)))
            self.sampler = self._new_sampler()
        self.log.begin()
        self.save()

    def restore(self, checkpoint: Checkpoint) -> None:
        restore_weights(checkpoint, self.supernet)
        state = checkpoint.metadata["training"]
        self.train_step.restore(checkpoint.optimizer, checkpoint.averages, state.get("loss_scale", {}))
        self.schedule = Schedule(**state["schedule"])
        self.step, self.elapsed = checkpoint.metadata["step"], state["seconds"]
        self.loss = math.nan if state["loss"] is None else state["loss"]
        self.throughput.weights = state.get("phase_weights", self.throughput.weights)
        self.sampler.load_state(state.get("policy", {}))
        self.log.rewind(self.step)

    def run(self, interrupted: threading.Event) -> TrainingResult:
        saved = time.monotonic()
        batches = self._batches(self.step)
        while self.step < self.schedule.total_steps:
            began = time.monotonic()
            self._shorten_to_budget()
            self._before_epoch()
            phase = self.phase
            patch_stride = self.throughput.phases[phase].patch_stride
            progress, rate = self.schedule.progress(self.step), self.schedule.rate(self.step)
            context = StepContext(self.step, progress, rate, patch_stride)
            self.loss = self.train_step.run(context, next(batches), self.sampler)
            self.step += 1
            self.throughput.note(time.monotonic() - began)
            self._report(phase)
            self._validate()
            if self.phase != phase:
                self.throughput.forget()
            is_last = self.step == self.schedule.total_steps
            is_due = time.monotonic() - saved >= self.settings.checkpoint_every_seconds
            is_interrupted = self.group.sum([float(interrupted.is_set())])[0] > 0
            if is_last or is_due or is_interrupted:
                self.save()
                saved = time.monotonic()
            if is_interrupted:
                raise KeyboardInterrupt
        return TrainingResult(self.path, self.step, self.step / self.steps_per_epoch, self.seconds, self.loss)

    def save(self) -> None:
        if not self.group.is_main_process:
            return
        space = self.supernet.space
        metadata = CheckpointMetadata(
            architecture=space.architecture.to_dict() if space.architecture else None,
            image_side=space.image_side,
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
                "phase_weights": self.throughput.weights,
                "policy": self.sampler.state(),
                "loss_scale": self.train_step.precision.state(),
                "threads": torch.get_num_threads(),
                "workers": self.group.count,
                "torch": torch.__version__,
            },
        )
        average = self.train_step.average
        save_checkpoint(
            self.path, self.supernet, self.train_step.moments(), metadata, average.tensors if average else None
        )

    def _prepare_policy(self) -> None:
        """Let a policy make what it needs; the others find in the cache what the main process has made."""
        policy = get_policy(self.settings.policy)

        def report(done: int, total: int) -> None:
            if self.callbacks.notify:
                self.callbacks.notify(Preparation(done, total))

        if self.group.is_main_process:
            policy.prepare(self.supernet.space, report)
        self.group.broadcast(None)
        if not self.group.is_main_process:
            policy.prepare(self.supernet.space)

    def _new_train_step(self) -> TrainStep:
        return TrainStep(
            self.supernet, self.settings, self.group, self.path, self.mix, self.teacher, weights_K=self.weights_K
        )

    def _new_sampler(self) -> Sampler:
        settings = self.settings
        at_once = settings.batch_size // self.group.count // settings.accumulate
        return get_policy(settings.policy).begin(self.supernet.space, settings.seed, at_once)

    def _schedule(self, steps: int) -> Schedule:
        settings = self.settings
        return Schedule(
            steps,
            settings.warmup_share,
            start=settings.warmup_start,
            floor=settings.floor,
            cooldown=settings.cooldown_share,
        )

    def _before_epoch(self) -> None:
        epoch, step = divmod(self.step, self.steps_per_epoch)
        if step == 0:
            epochs = self.schedule.total_steps / self.steps_per_epoch
            moments = moments_by_name(self.train_step.optimizer, self.train_step.trained)
            average = self.train_step.average
            tensors = None if average is None else average.tensors
            self.sampler.before_epoch(epoch, epochs, self.supernet, moments, tensors)

    def _time_phases(self, limit: float) -> list[float]:
        """Seconds of a step in each phase, timed on some of the first steps, whose effects are undone."""
        before = {name: tensor.clone() for name, tensor in self.supernet.state_dict().items()}
        phases, start = self.throughput.phases, self.seconds
        seconds = []
        for index, phase in enumerate(phases):
            end = start + limit * (index + 1) / len(phases)
            batches = self._batches(0)

            def run(step: int, patch_stride: int = phase.patch_stride, batches: Iterator[Batch] = batches) -> None:
                context = StepContext(step, self.schedule.progress(step), 0.0, patch_stride)
                self.train_step.run(context, next(batches), self.sampler)

            def seconds_left(end: float = end) -> float:
                return end - self.seconds

            seconds.append(time_steps(run, seconds_left, self.group.broadcast))
        self.supernet.load_state_dict(before)
        self.train_step = self._new_train_step()
        return seconds

    def _shorten_to_budget(self) -> None:
        schedule = self.throughput.kept(
            self.schedule, self.step, self.seconds, self.settings.budget_seconds, self.phase
        )
        if self.settings.budget_seconds is not None:
            schedule = Schedule(**self.group.broadcast(schedule.to_dict()))
        if schedule != self.schedule:
            self.schedule = schedule
            self.save()

    def _batches(self, step: int) -> Iterator[Batch]:
        epoch, start = divmod(step, self.steps_per_epoch)
        shard = (self.group.rank, self.group.count)
        while True:
            yield from self.data.train_batches(self.settings.batch_size, self.settings.seed, epoch, start, shard)
            epoch, start = epoch + 1, 0

    def _report(self, phase: int) -> None:
        done, total = self.step, self.schedule.total_steps
        rate = self.schedule.rate(done - 1) * self.settings.learning_rate
        speed = min(self.settings.batch_size, self.data.splits["train"]) * self.throughput.steps_per_second
        if done % self.settings.log_every_steps == 0 or done == total:
            line = {
                "step": done,
                "total_steps": total,
                "loss": self.loss,
                "patch_stride": self.throughput.phases[phase].patch_stride,
                "learning_rate": rate,
                "images_per_second": round(speed, 2),
                "seconds": round(self.seconds, 2),
            }
            self.log.add(line)
        if self.callbacks.progress and self.group.is_main_process:
            eta = (total - done) * self.throughput.step_seconds(self.schedule.progress(done), phase)
            self.callbacks.progress(TrainingProgress(done, total, self.loss, speed, eta, rate))

    def _validate(self) -> None:
        """Validate where it is due; the line stands in the log before the checkpoint of the same step is written."""
        is_last = self.step == self.schedule.total_steps
        is_due = self.step % (self.settings.validate_every_epochs * self.steps_per_epoch) == 0
        if self.callbacks.validate is None or not self.group.is_main_process or not (is_due or is_last):
            return
        average = self.train_step.average
        with average.applied(self.supernet) if average else nullcontext():
            accuracy = dict(self.callbacks.validate(self.supernet))
        self.supernet.train()
        self.log.add({"step": self.step, "validation": accuracy})
        if self.callbacks.notify:
            self.callbacks.notify(Validation(self.step, self.step / self.steps_per_epoch, accuracy))


def _check_fits(
    supernet: Supernet, data: ImageData, settings: TrainingSettings, group: ProcessGroup, *, looks_at_labels: bool
) -> None:
    if looks_at_labels and data.classes != supernet.space.classes:
        raise TrainingError(
            f"data `{data.source}` has {data.classes} classes, the supernet of `{supernet.space.name}` tells"
            f" {supernet.space.classes}",
            hint=f"make the space for {data.classes} classes",
        )
    if data.has_several_labels:
        check_suits_several_labels(settings, data.source)
    images = min(settings.batch_size, data.splits["train"])
    if images < group.count * settings.accumulate:
        raise TrainingError(
            f"training: {images} images per step for {group.count} workers and {settings.accumulate} parts each,"
            " expected an image for each part at least",
            hint="raise `batch_size`, or take fewer workers or parts",
        )


def check_suits_several_labels(settings: TrainingSettings, source: str) -> None:
    """Make sure that settings of a training do not ask for one class of each image.

    Raises:
        TrainingError: They do; the message names the setting.
    """
    plain = TrainingSettings()
    asked = ("mixing", "class_weights", "teacher_target", "teachers", "loss")
    for name in (name for name in asked if getattr(settings, name) != getattr(plain, name)):
        raise TrainingError(
            f"training setting `{name}`: found {getattr(settings, name)!r}, which takes one class of each image, but"
            f" images of `{source}` have several labels",
            hint=f"leave `{name}` out",
        )


def _broadcast_checkpoint(path: Path, group: ProcessGroup) -> Checkpoint | None:
    """The checkpoint that the main process finds, in all of them."""
    found = read_checkpoint(path) if group.is_main_process and path.exists() else None
    metadata = group.broadcast(None if found is None else found.metadata)
    if metadata is None or group.count == 1:
        return found
    parts = (found.weights, found.optimizer, found.averages) if found else ({}, {}, {})
    weights, optimizer, averages = (group.broadcast_tensors(tensors) for tensors in parts)
    return Checkpoint(path, weights, optimizer, metadata, averages)


def _comparable(name: str, value: Any) -> Any:
    """Files with weights may lie elsewhere than when the training was started."""
    return [Path(file).name for file in value] if name == "teacher_weights" and value else value


def _check_same(checkpoint: Checkpoint, data: ImageData, settings: TrainingSettings) -> None:
    data.check(checkpoint.metadata["data"])
    recorded = {**LEGACY_DEFAULTS, **checkpoint.metadata["settings"]}
    asked = settings.to_dict()
    for name in asked:
        if name not in CHANGEABLE and _comparable(name, recorded.get(name)) != _comparable(name, asked[name]):
            raise TrainingError(
                f"training setting `{name}`: found {asked[name]}, but the training in `{checkpoint.path.parent}` has"
                f" {recorded.get(name)}",
                hint="resume with the same settings, or train into a new run folder",
            )
