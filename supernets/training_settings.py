"""How to train: settings that go to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from supernets.errors import TrainingError
from supernets.sampling import get_policy

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
        progressive: Whether training begins on large patches, see `supernets.progressive`.
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
    progressive: bool = False
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
