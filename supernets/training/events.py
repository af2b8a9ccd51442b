"""What a training reports while it lasts, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainingProgress:
    """Where a training stands after a step.

    Attributes:
        step: Steps done.
        total_steps: Of the whole training.
        loss: Of the step's first architecture on the labels, or of all where they share the step's images.
        images_per_second: Training images per second of the latest steps, each counted once per step.
        eta_seconds: Expected time to the end.
        learning_rate: Of the step.
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
        loss: Of the last step, see `TrainingProgress`.
    """

    checkpoint: Path
    steps: int
    epochs: float
    seconds: float
    loss: float
