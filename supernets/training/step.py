"""One step of a supernet's training: forward and backward of its architectures, then one move of the optimiser.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from search_spaces import Architecture
from supernets.data.image_data import Batch
from supernets.errors import TrainingError
from supernets.grouped import run_groups
from supernets.sampling import Assignment, Sampler
from supernets.supernet import BorrowedSubnet, Supernet
from supernets.training.clipping import clip_gradients
from supernets.training.distributed import ProcessGroup
from supernets.training.ema import MovingAverage
from supernets.training.feature_distillation import FeatureLoss, FeatureTeacher, see
from supernets.training.losses import ImageTargets, Seen, class_logits, get_loss, label_loss, target_loss
from supernets.training.low_rank import PREFIX, LowRank
from supernets.training.optimizer import load_optimizer_state, make_optimizer, optimizer_state, set_learning_rate
from supernets.training.precision import MixedPrecision
from supernets.training.settings import TrainingSettings
from supernets.training.sharpness import uphill
from supernets.training.targets import AnyTeacher, Mix


@dataclass(frozen=True)
class StepContext:
    """What a step takes from its place in the training.

    Attributes:
        number: Number of the step, from 0.
        progress: Share of the training that is done when it begins.
        rate: Learning rate, as a share of the peak.
        patch_stride: Factor by which patches are further apart than usual.
    """

    number: int
    progress: float
    rate: float
    patch_stride: int


class TrainStep:
    """What moves in a training, and one step of it.

    Args:
        supernet: The supernet, trained in place.
        settings: How to train.
        group: The processes that train together.
        checkpoint: The file that keeps what was trained, for messages.
        mix: How a step's images are mixed; None for not at all.
        teacher: The teachers; None for none. What a `FeatureTeacher` sees is learnt in place of labels.
        weights_K: Weights of classes, see `supernets.training.long_tail`; None for none.
    """

    def __init__(
        self,
        supernet: Supernet,
        settings: TrainingSettings,
        group: ProcessGroup,
        checkpoint: Path,
        mix: Mix | None = None,
        teacher: AnyTeacher | None = None,
        weights_K: Tensor | None = None,
    ) -> None:
        self.supernet, self.settings, self.group = supernet, settings, group
        self.low_rank = LowRank(supernet, settings.low_rank, settings.seed) if settings.low_rank else None
        self.trained = dict(supernet.named_parameters()) if self.low_rank is None else self.low_rank.trained
        self.optimizer = make_optimizer(supernet, settings, self.trained)
        self._features: FeatureLoss | None = None
        if isinstance(teacher, FeatureTeacher):
            self._features = FeatureLoss(teacher.features, supernet.device)
            matrices = self._features.trained
            self.optimizer.add_param_group({"params": [*matrices.values()], "weight_decay": 0.0, "lr_scale": 1.0})
            self.trained = {**self.trained, **matrices}
        self.precision = MixedPrecision(settings.precision, supernet.device)
        self.average = None if settings.ema_decay is None else MovingAverage(supernet, settings.ema_decay)
        self._checkpoint, self._mix, self._teacher, self._weights_K = checkpoint, mix, teacher, weights_K
        self._loss = get_loss(settings.loss)
        self._label_share = 0.0 if len(settings.teachers) > 1 else 0.5

    def run(self, context: StepContext, batch: Batch, sampler: Sampler) -> float:
        """Train the step's architectures; returns the loss of the first one, over the images of all processes.

        Raises:
            TrainingError: A loss, a score or the gradient is not finite; the same in every process.
            WorkerLostError: Another process is gone.
        """
        device = self.supernet.device
        # Colours last: convolutions on the CPU take a quarter less time.
        dtype = next(self.supernet.parameters()).dtype
        clean_BCHW = batch[0].to(device, dtype, memory_format=torch.channels_last, non_blocking=True)
        labels_B = batch[1].to(device, non_blocking=True)
        assignments = sampler.assign(context.number, context.progress)
        torch.manual_seed(self._torch_seed(context.number))
        self.optimizer.zero_grad(set_to_none=True)
        images_BCHW, targets = self._targets(clean_BCHW, labels_B, context)
        with self.group.synchronised_batch_norm():
            losses, scores = self._forward_backward(assignments, images_BCHW, targets, context.patch_stride)
            self._check("loss", losses, [assignment.architecture for assignment in assignments], context)
            if sampler.learns:
                self._tell(sampler, assignments, scores, clean_BCHW, labels_B, context)
            if self.settings.sharpness:
                parameters = list(self.supernet.parameters())
                self.group.sum_gradients(parameters)
                with uphill(parameters, self.settings.sharpness):
                    self.optimizer.zero_grad(set_to_none=True)
                    torch.manual_seed(self._torch_seed(context.number))
                    self._forward_backward(assignments, images_BCHW, targets, context.patch_stride)
        self._update(context, assignments[0].architecture)
        return losses[0]

    def moments(self) -> dict[str, Tensor]:
        """What the optimiser remembers, see `supernets.training.optimizer.optimizer_state`, and what is trained beside
        the shared tensors: factors, and the matrices that features go through.
        """
        factors = {} if self.low_rank is None else self.low_rank.state()
        matrices = {} if self._features is None else self._features.state()
        return {**optimizer_state(self.optimizer, self.trained), **factors, **matrices}

    def restore(self, moments: Mapping[str, Tensor], averages: Mapping[str, Tensor], scale: Mapping[str, Any]) -> None:
        """Take up what `moments` gave, the average of the weights, and the scale of the loss."""
        factors = {name: tensor for name, tensor in moments.items() if name.startswith(PREFIX)}
        matrices = {} if self._features is None else {name: moments[name] for name in self._features.trained}
        own = {name: tensor for name, tensor in moments.items() if name not in factors and name not in matrices}
        load_optimizer_state(self.optimizer, self.trained, own)
        if self._features is not None:
            self._features.load(matrices)
        if self.low_rank is not None:
            self.low_rank.load(factors)
        self.precision.load_state(scale)
        if self.average is not None:
            self.average.load(averages)

    # -- forward and backward ------------------------------------------------------------------------------------------

    def _targets(self, images_BCHW: Tensor, labels_B: Tensor, context: StepContext) -> tuple[Tensor, ImageTargets]:
        targets = ImageTargets(labels_B)
        mix = self._mix_at(context)
        if mix is not None:
            images_BCHW, targets = mix(images_BCHW, labels_B, context.number)
        if self._weighs(context):
            targets = replace(targets, weights_K=self._weights_K)
        if isinstance(self._teacher, FeatureTeacher):
            targets = replace(targets, seen=self._teacher(images_BCHW))
        elif self._teacher is not None:
            is_hard = self.settings.teacher_target == "hard"
            taught_BK = self._teacher(images_BCHW)
            targets = replace(targets, teacher_BK=taught_BK, label_share=self._label_share, is_hard=is_hard)
        return images_BCHW, targets

    def _weighs(self, context: StepContext) -> bool:
        """Whether classes are weighted in a step."""
        return self._weights_K is not None and context.progress >= self.settings.deferred

    def _mix_at(self, context: StepContext) -> Mix | None:
        """How the images of a step are mixed: not at all where classes are weighted."""
        return None if self._weighs(context) else self._mix

    def _forward_backward(
        self, assignments: Sequence[Assignment], images_BCHW: Tensor, targets: ImageTargets, patch_stride: int
    ) -> tuple[list[float], list[float]]:
        """Losses and scores of the architectures over the images of all processes; gradients are left in place."""
        parts = self.settings.accumulate
        images = self.group.sum([len(images_BCHW)])[0]
        has_shares = any(assignment.share is not None for assignment in assignments)
        run = self._train_groups if has_shares else self._train_each
        losses, scores = [0.0] * len(assignments), [0.0] * len(assignments)
        for index in range(parts):
            own_BCHW = images_BCHW if parts == 1 else images_BCHW[index::parts]
            weight = len(own_BCHW) / images
            found = run(assignments, own_BCHW, targets.part(index, parts), weight, patch_stride)
            for number, (loss, score) in enumerate(found):
                losses[number] += weight * loss.item()
                scores[number] += weight * score.item()
        summed = self.group.sum(losses + scores)
        return summed[: len(losses)], summed[len(losses) :]

    def _train_each(
        self,
        assignments: Sequence[Assignment],
        images_BCHW: Tensor,
        targets: ImageTargets,
        weight: float,
        patch_stride: int,
    ) -> list[tuple[Tensor, Tensor]]:
        """One architecture after the other, each on all images."""
        earlier: list[Tensor] = []
        found: list[tuple[Tensor, Tensor]] = []
        for assignment in assignments:
            with self.supernet.borrow(assignment.architecture, patch_stride) as subnet:
                if self._features is not None and targets.seen is not None:
                    loss = self._features(self._seen(subnet, assignment.architecture, images_BCHW), targets.seen)
                    self._backward(loss, len(assignments) / weight)
                    found.append((loss.detach(), -loss.detach()))
                    continue
                with self.precision.forward():
                    output = subnet(images_BCHW)
                loss = target_loss(
                    assignment.target, output, targets, earlier, self.settings.label_smoothing, self._loss
                )
                self._backward(loss, len(assignments) / weight)
            earlier.append(class_logits(output).detach())
            found.append((loss.detach(), -label_loss(earlier[-1], targets.labels_B)))
        return found

    def _seen(self, subnet: BorrowedSubnet, architecture: Architecture, images_BCHW: Tensor) -> Seen:
        """What a network sees in images."""
        with self.precision.forward():
            return see(lambda: subnet(images_BCHW), subnet.head, self.supernet.space, architecture)

    def _backward(self, loss: Tensor, parts: float) -> None:
        self.precision.scaled(loss / parts).backward()  # type: ignore[no-untyped-call]

    def _train_groups(
        self,
        assignments: Sequence[Assignment],
        images_BCHW: Tensor,
        targets: ImageTargets,
        weight: float,
        patch_stride: int,
    ) -> list[tuple[Tensor, Tensor]]:
        """Each architecture on its own images, all in one pass."""
        if targets.seen is not None:
            raise TrainingError(
                f"training setting `policy`: networks of `{self.settings.policy}` share the images of a step, and"
                " cannot learn the features of a whole network",
                hint="choose another policy",
            )
        if patch_stride != 1:
            raise TrainingError(
                f"training setting `policy`: `{self.settings.policy}` cannot train on coarse patches",
                hint="leave progressive tokenisation out, or choose another policy",
            )
        execution = None if self.settings.execution == "auto" else self.settings.execution
        with self.precision.forward():
            output = run_groups(self.supernet, assignments, images_BCHW, execution)
        loss = target_loss("labels", output, targets, [], self.settings.label_smoothing, self._loss)
        self.precision.scaled(loss / (1 / weight)).backward()  # type: ignore[no-untyped-call]
        score = -label_loss(class_logits(output).detach(), targets.labels_B)
        return [(loss.detach(), score)] * len(assignments)

    # -- scores of policies that learn ---------------------------------------------------------------------------------

    def _tell(
        self,
        sampler: Sampler,
        assignments: Sequence[Assignment],
        scores: Sequence[float],
        clean_BCHW: Tensor,
        labels_B: Tensor,
        context: StepContext,
    ) -> None:
        """Tell a policy how well architectures do on the step's images as they were before they were mixed.

        Where nothing is mixed, training has told so already; else the policy names those that it has no score of.
        """
        if self._mix_at(context) is None:
            self._observe(sampler, [assignment.architecture for assignment in assignments], scores, context)
        stale = sampler.stale()
        self._observe(sampler, stale, self._scores(stale, clean_BCHW, labels_B, context.patch_stride), context)

    def _observe(
        self, sampler: Sampler, architectures: Sequence[Architecture], scores: Sequence[float], context: StepContext
    ) -> None:
        self._check("score", scores, architectures, context)
        for architecture, score in zip(architectures, scores, strict=True):
            sampler.observe(architecture, score)

    @torch.no_grad()
    def _scores(
        self, architectures: Sequence[Architecture], images_BCHW: Tensor, labels_B: Tensor, patch_stride: int
    ) -> list[float]:
        """Minus the cross-entropy on the labels of all processes' images, in training mode, without training."""
        parts = self.settings.accumulate
        scores = [0.0] * len(architectures)
        images = self.group.sum([len(images_BCHW)])[0]
        for number, architecture in enumerate(architectures):
            for index in range(parts):
                own_BCHW, own_B = images_BCHW, labels_B
                if parts > 1:
                    own_BCHW, own_B = images_BCHW[index::parts], labels_B[index::parts]
                with self.supernet.borrow(architecture, patch_stride) as subnet, self.precision.forward():
                    output = subnet(own_BCHW)
                scores[number] -= len(own_B) / images * label_loss(class_logits(output), own_B).item()
        return self.group.sum(scores)

    # -- the optimiser -------------------------------------------------------------------------------------------------

    def _update(self, context: StepContext, architecture: Architecture) -> None:
        if self.low_rank is not None:
            self.low_rank.project_gradients()
        parameters = list(self.trained.values())
        self.group.sum_gradients(parameters)
        self.precision.unscale(self.optimizer)
        set_learning_rate(self.optimizer, context.rate * self.settings.learning_rate)
        norm = clip_gradients(parameters, self.settings.clipping, self.settings.gradient_clip)
        if not self.precision.is_scaled:
            self._check("gradient norm", [norm], [architecture], context)
        self.precision.step(self.optimizer)
        if self.low_rank is not None:
            self.low_rank.apply()
        if self.average is not None:
            self.average.update(self.supernet, context.number)

    def _check(
        self, what: str, values: Sequence[float], architectures: Sequence[Architecture], context: StepContext
    ) -> None:
        for value, architecture in zip(values, architectures, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"training: {what} is {value} at step {context.number} with architecture {architecture.to_json()}",
                    hint=f"lower the learning rate (found {self.settings.learning_rate:g}); the last good checkpoint is"
                    f" kept in {self._checkpoint}",
                )

    def _torch_seed(self, number: int) -> int:
        """Seed of what networks draw in a step, for example paths to drop: the processes draw differently."""
        return (self.settings.seed * 1_000_003 + number + self.group.rank * 2**40) % 2**63
