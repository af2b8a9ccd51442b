"""What a training reports while it lasts, and at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from supernets.supernet import Supernet


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands after a step.

    Attributes:
        step: Steps done.
        total_steps: Steps of the whole training.
        loss: Loss of the step's first architecture on the labels, or of all where they share the step's images.
        images_per_second: Training images per second of the latest steps, each counted once per step.
        eta_seconds: Expected time to the end.
        learning_rate: Learning rate of the step.
    """

    step: int
    total_steps: int
    loss: float
    images_per_second: float
    eta_seconds: float
    learning_rate: float


@dataclass(frozen=True)
class Preparation:
    """How far the sampling policy's preparation has come, for example the tables of `supernets.sampling.levels`.

    Attributes:
        done: Pieces done.
        total: Pieces there are.
    """

    done: int
    total: int


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes:
        step: Steps done.
        epoch: Epochs done.
        accuracy: By name of the network, in [0, 1].
    """

    step: int
    epoch: float
    accuracy: Mapping[str, float]


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training leaves.

    Attributes:
        checkpoint: The file with the trained supernet.
        steps: Steps in all.
        epochs: Passes over the training images.
        seconds: Time trained, over all resumed parts.
        loss: Loss of the last step, see `TrainingProgress`.
    """

    checkpoint: Path
    steps: int
    epochs: float
    seconds: float
    loss: float


@dataclass(frozen=True)
class Callbacks:
    """What a training calls while it lasts; None calls nothing.

    Attributes:
        progress: Called after every step.
        notify: Called after every validation, and while the sampling policy prepares itself.
        validate: Judges the supernet after every ``settings.validate_every_epochs`` epochs and at the end, with the
            average of the weights where one is kept; gives numbers by name. The supernet must keep its tensors.
    """

    progress: Callable[[TrainingProgress], None] | None = None
    notify: Callable[[Preparation | Validation], None] | None = None
    validate: Callable[[Supernet], Mapping[str, float]] | None = None


NO_CALLBACKS = Callbacks()
