"""How to train: settings that go to JSON and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from search_spaces.json_file import check_fields
from supernets.errors import TrainingError
from supernets.sampling import get_policy
from supernets.training.losses import get_loss

Precision = Literal["fp32", "bf16", "fp16"]
Clipping = Literal["norm", "adaptive", "none"]
Decay = Literal["matrices", "published"]
Mixing = Literal["augmentation", "token"]
Execution = Literal["auto", "sliced", "masked"]
TeacherTarget = Literal["soft", "hard"]
ClassWeights = Literal["none", "effective"]

CHANGEABLE = ("checkpoint_every_seconds", "log_every_steps", "validate_every_epochs")
"""Settings that do not change what is computed, so a resumed run may have others."""

LEGACY_DEFAULTS: Mapping[str, Any] = {
    "progressive": False,
    "accumulate": 1,
    "warmup_epochs": None,
    "warmup_start": 0.0,
    "floor": 0.01,
    "cooldown_epochs": 0.0,
    "clipping": "norm",
    "decay": "matrices",
    "ema_decay": None,
    "precision": "fp32",
    "augmentation": "light",
    "hflip": None,
    "mixing": "augmentation",
    "teachers": [],
    "teacher_weights": [],
    "temperature": 0.2,
    "execution": "auto",
    "drop_path": 0.0,
    "sharpness": 0.0,
    "low_rank": 0,
    "layer_decay": 1.0,
    "loss": "cross-entropy",
    "teacher_target": "soft",
    "class_weights": "none",
    "deferred": 0.0,
}
"""What trainings were that were begun by a release without these settings."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "precision": get_args(Precision),
    "clipping": get_args(Clipping),
    "decay": get_args(Decay),
    "mixing": get_args(Mixing),
    "execution": get_args(Execution),
    "teacher_target": get_args(TeacherTarget),
    "class_weights": get_args(ClassWeights),
}


@dataclass(frozen=True)
class TrainingSettings:
    """How to train a supernet; JSON-ready through `to_dict`.

    Attributes:
        epochs: Passes over the training images.
        budget_seconds: Time to train for, in place of ``epochs``; turned once into a number of steps.
        batch_size: Images per step, over all processes; unless it takes a share of them, every architecture of the
            step sees all.
        accumulate: Parts that a process cuts its images of a step into, one after the other, to need less memory.
            BatchNorm then normalises within a part.
        learning_rate: Peak of the schedule, for AdamW.
        layer_decay: Factor of the learning rate from each layer to the one before it, so that layers near the images
            move least, see `supernets.training.optimizer`; 1 for one rate.
        weight_decay: Weight decay of what ``decay`` says.
        decay: What has weight decay: ``matrices`` and kernels, or of these only what the networks' paper says.
        loss: Name of the loss by which networks learn from labels, mixed images and teachers, see
            `supernets.training.losses`.
        label_smoothing: Share of each label that is spread over all classes.
        warmup: Share of the training in which the learning rate rises.
        warmup_epochs: The same in epochs, in place of ``warmup``.
        warmup_start: Learning rate at the beginning, as a share of the peak.
        floor: Learning rate at the end, as a share of the peak.
        cooldown_epochs: Further epochs at that rate, beside ``epochs``.
        gradient_clip: Largest norm of the gradient, or with ``adaptive`` clipping the share of its weights' norm that
            the gradient of each unit may have.
        clipping: By the ``norm`` of the whole gradient, ``adaptive`` (see `supernets.training.clipping`), or ``none``.
        ema_decay: Decay of an exponential moving average of the weights, which is then what a checkpoint is evaluated
            and exported by; None for none.
        precision: Precision of products in the forward and backward pass. Weights and moments are float32 in any case.
        augmentation: Name of the augmentation of image files, see `supernets.data.augmentation`.
        hflip: Probability that a training image is mirrored; None for half, but for classes that a mirror changes,
            see `supernets.data.mirroring`.
        mixing: How images are mixed: as the ``augmentation`` says, or by ``token`` (see
            `supernets.training.token_mixing`). Each process mixes its own images.
        teachers: Names of timm networks whose mean outputs are learnt: beside the labels, in equal shares, where there
            is one teacher, in their place where there are more.
        teacher_weights: Files with the teachers' weights, one each; without any timm's own are fetched.
        temperature: What the teachers' logits are divided by; under 1 sharpens.
        teacher_target: What the teachers teach: their ``soft`` probabilities, or the ``hard`` label that they give.
        class_weights: Weights of classes in what hard teachers say, and in labels where nothing teaches: ``none``, or
            ``effective``, by the number of training images, see `supernets.training.long_tail`.
        deferred: Share of the training after which classes are weighted and images no longer mixed; classes alike
            until then.
        drop_path: Stochastic depth of the last layer, for families that have it, see
            `supernets.family.training_form`.
        sharpness: How far uphill of the weights the gradient is taken, as the norm of the way (0.05 is usual): flatter
            minima at twice the cost, see `supernets.training.sharpness`. 0 takes it where the weights are.
        low_rank: Rank of what is added to matrices and kernels in place of changing them freely, see
            `supernets.training.low_rank`; 0 changes them freely.
        execution: How the architectures of a step run that share its images: ``sliced``, ``masked``, or what is faster
            on the device (``auto``), see `supernets.masked`.
        seed: Seed of architectures, order and augmentation.
        policy: Name of the sampling policy.
        progressive: Whether training begins on large patches, see `supernets.training.progressive`.
        checkpoint_every_seconds: Least time between checkpoints.
        log_every_steps: Steps between lines of the training log.
        validate_every_epochs: Epochs between validations, where the caller validates.
    """

    epochs: int = 22
    budget_seconds: float | None = None
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 4e-3
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    decay: Decay = "matrices"
    loss: str = "cross-entropy"
    label_smoothing: float = 0.1
    warmup: float = 0.1
    warmup_epochs: float | None = None
    warmup_start: float = 0.0
    floor: float = 0.01
    cooldown_epochs: float = 0.0
    gradient_clip: float = 1.0
    clipping: Clipping = "norm"
    ema_decay: float | None = None
    precision: Precision = "fp32"
    augmentation: str = "light"
    hflip: float | None = None
    mixing: Mixing = "augmentation"
    teachers: tuple[str, ...] = ()
    teacher_weights: tuple[str, ...] = ()
    temperature: float = 0.2
    teacher_target: TeacherTarget = "soft"
    class_weights: ClassWeights = "none"
    deferred: float = 0.0
    drop_path: float = 0.0
    sharpness: float = 0.0
    low_rank: int = 0
    execution: Execution = "auto"
    seed: int = 0
    policy: str = "sandwich"
    progressive: bool = False
    checkpoint_every_seconds: float = 30.0
    log_every_steps: int = 10
    validate_every_epochs: int = 1

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                self._refuse(name, f"one of {', '.join(f'`{choice}`' for choice in choices)}")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                self._refuse(name, "more than 0")
        for name in ("label_smoothing", "warmup", "warmup_start", "drop_path", "ema_decay", "deferred"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                self._refuse(name, "0 to 1")
        if not 0 < self.layer_decay <= 1:
            self._refuse("layer_decay", "more than 0, and 1 at most")
        if not 0 <= self.floor <= 1:
            self._refuse("floor", "0 to 1")
        for name in ("weight_decay", "seed", "cooldown_epochs", "sharpness", "low_rank"):
            if not getattr(self, name) >= 0:
                self._refuse(name, "0 or more")
        if self.hflip is not None and not 0 <= self.hflip <= 1:
            self._refuse("hflip", "0 to 1")
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs < self.epochs:
            self._refuse("warmup_epochs", f"0 or more, and fewer than the {self.epochs} epochs of the training")
        if self.budget_seconds is not None and (self.warmup_epochs is not None or self.cooldown_epochs):
            raise TrainingError(
                "training settings `warmup_epochs` and `cooldown_epochs`: a training with a time budget has no fixed"
                " number of epochs",
                hint="give `warmup` as a share of the training, or `epochs` in place of `budget_seconds`",
            )
        if self.class_weights != "none" and self.teachers and self.teacher_target == "soft":
            self._refuse("teacher_target", "`hard` beside `class_weights`, since soft outputs have no class to weigh")
        if self.sharpness and self.precision == "fp16":
            self._refuse("precision", "`bf16` or `fp32`, since `sharpness` needs gradients that are not scaled")
        if self.low_rank and (self.sharpness or self.clipping == "adaptive"):
            self._refuse("low_rank", "0 beside `sharpness` or adaptive `clipping`, which look at whole matrices")
        if self.batch_size < self.accumulate:
            self._refuse("accumulate", f"no more than the {self.batch_size} images of a batch")
        if self.teacher_weights and len(self.teacher_weights) != len(self.teachers):
            raise TrainingError(
                f"training setting `teacher_weights`: found {len(self.teacher_weights)} files, expected one for each of"
                f" {len(self.teachers)} teachers"
            )
        get_policy(self.policy)
        get_loss(self.loss)

    @property
    def warmup_share(self) -> float:
        """Share of the training in which the learning rate rises."""
        if self.warmup_epochs is None:
            return self.warmup
        return self.warmup_epochs / (self.epochs + self.cooldown_epochs)

    @property
    def cooldown_share(self) -> float:
        """Share of the training, its last part, in which the learning rate stays where it ends."""
        return self.cooldown_epochs / (self.epochs + self.cooldown_epochs)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_dict` gives back equal settings."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingSettings:
        """Read what `to_dict` wrote.

        Raises:
            TrainingError: There is a setting that is not known, of another type, or out of range.
        """
        unknown = sorted(data.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise TrainingError(f"training setting `{unknown[0]}`: not known to this release")
        try:
            check_fields(cls, data)
        except ValueError as error:
            raise TrainingError(f"training setting {error}") from error
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        return cls(**values)

    def _refuse(self, name: str, expected: str) -> None:
        raise TrainingError(f"training setting `{name}`: found {getattr(self, name)}, expected {expected}")


_POSITIVE = (
    "epochs",
    "budget_seconds",
    "batch_size",
    "accumulate",
    "learning_rate",
    "gradient_clip",
    "temperature",
    "log_every_steps",
    "validate_every_epochs",
)
