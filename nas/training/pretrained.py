"""A model of one's own as the beginning of a search: its weights become shared tensors, the most important first.

What is prepared is kept in the run folder as ``checkpoints/original.safetensors``: the whole network computes what the
model did, so that it can teach, be compared with, and be begun with again where a run is killed before its training has
written anything.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from nas.evaluation.accuracy import guessed
from nas.evaluation.classifier import MOST_IMAGES
from nas.evaluation.evaluators import SupernetEvaluator, calibration_batches
from nas.events import Notice, Progress, StageStarted
from nas.networks.precision import fast_precision
from nas.records.network import SIZES
from nas.runs.folder import original_checkpoint
from nas.runs.places import shown_place
from nas.training.adaptation import adapt_classifier, load_fitting
from nas.training.fine_tuning import fine_tune
from nas.training.session import Start
from search_spaces import get_space
from search_spaces.timm_models import PREFIX, TimmReference

if TYPE_CHECKING:
    from torch import Tensor

    from nas.objectives.bounds import Bounds
    from supernets.calibration import Calibration
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.training.settings import Precision, TrainingSettings

PRETRAINED, RANDOM = "pretrained", "random"
COMPONENTS = "components"
"""What ``head`` says of a model whose features are told in place of classes."""
CALIBRATION_IMAGES = 128
"""Training images that importance is judged on."""
ADAPTATION_SHARE = 0.15
"""Share of a budget that may go to the features for a fitted classifier, and as much to fine-tuning after that."""


@dataclass(frozen=True)
class ModelRequest:
    """A model to be searched.

    Attributes:
        name: Name of a timm model, with arguments where wanted.
        weights: ``pretrained``, a file or folder, or ``random``.
        seed: Seed of random weights, and of the choice of calibration images.
        budget_seconds: Time of the whole search, of which shares go to features and fine-tuning; None for no bound.
        uses_labels: Whether it is made one for the classes of images; else its features are told by their components.
        precision: Precision of products in fine-tuning; None for what is fast on the device.
    """

    name: str
    weights: str
    seed: int = 0
    budget_seconds: float | None = None
    uses_labels: bool = True
    precision: Precision | None = None


@dataclass(frozen=True)
class PretrainedStart:
    """A model that is ready to be searched.

    Attributes:
        supernet: Its weights, sorted by importance where they are trained.
        facts: What ``front.json`` says of it: ``name``, ``weights``, ``license``, ``teaches``, ``accuracy`` on the
            search part (``mean_average_precision`` where images have several labels), ``criteria`` and ``losses`` of
            the ordering, ``precision`` of its products in training, and what `adapt_classifier` says.
        seconds: What the preparation took.
    """

    supernet: Supernet
    facts: Mapping[str, Any]
    seconds: float

    @property
    def space(self) -> str:
        """The name of its space, which holds the order of its blocks."""
        return self.supernet.space.name

    def precision(self, options: Mapping[str, Any]) -> Precision:
        """What products are computed in while networks are trained: as asked for, else as was fast at its preparation.

        Args:
            options: The trainer's settings that were given.
        """
        found: Precision = options.get("precision") or self.facts.get("precision", "fp32")
        return found

    def start(self, training: TrainingSettings, has_several_labels: bool) -> Start:
        """What the training of the supernet begins with; the original teaches where it knows the classes.

        Args:
            training: Whose teachers, where it names some, take the place of the original.
            has_several_labels: Whether images may have several labels.
        """
        from supernets.training.network_teacher import NetworkTeacher

        if training.teachers or not self.facts["teaches"]:
            return Start(self.supernet)
        original = self.supernet.extract(self.supernet.space.largest).to(self.supernet.device)
        return Start(self.supernet, NetworkTeacher(original, has_several_labels=has_several_labels))

    def costs(self, bounds: Bounds) -> dict[str, Any]:
        """Parameters, MACs and predicted latency by target of the whole model, ready for JSON."""
        predicted = bounds.predict(bounds.space.encode([bounds.space.largest]))
        latencies = {target: asdict(latency) for target, latency in predicted.latencies()[0].items()}
        return {**{name: predicted.costs()[0][name] for name in SIZES}, "latency": latencies}


def space_of(model: str) -> str:
    """The space of the networks inside a model, before the order of its blocks is known."""
    return f"{PREFIX}:{TimmReference.parse(model.removeprefix(f'{PREFIX}:')).text}"


def folder_name(text: str) -> str:
    """A space's or a model's name as part of the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", text.partition("?")[0])


def prepare_model(asked: ModelRequest, images: ImageData, device: str, progress: Progress) -> PretrainedStart:
    """Load a model, fit it to the images' colours and classes, and sort it by importance.

    Where the weights have no classifier for these classes, one is fitted to the model's features, and if there is time
    the whole model is fine-tuned after that.

    Args:
        asked: The model.
        images: At the model's side.
        device: Where it is to be.
        progress: Told of the stage.

    Raises:
        UnknownNameError, TimmModelError: There is no such model, or it cannot be made elastic.
        CheckpointError: The weights cannot be had, or are of another model.
        SupernetError: The weights expect other colours, and cannot be changed for these; or no labels are to be used
            and the model has no dense classifier in whose place features could be told.
        DataError: There are too few images to find components of features on.
    """
    import torch

    from supernets.batch_norm import reestimate_batch_norm
    from supernets.features import told_by_components
    from supernets.importance import sort_by_importance
    from supernets.timm_models.rotation import rotate_heads

    started = time.monotonic()
    progress(StageStarted("prepare the model"))
    torch.manual_seed(asked.seed)
    weights = None if asked.weights == RANDOM else asked.weights
    original, facts = load_fitting(asked.name, weights, images, progress)
    facts["weights"] = shown_place(asked.weights)
    if weights is None:
        facts |= {"teaches": False}
        return PretrainedStart(original.supernet.to(device), facts, time.monotonic() - started)
    supernet = original.supernet.to(device)
    if asked.uses_labels:
        share = ADAPTATION_SHARE * asked.budget_seconds if asked.budget_seconds else None
        facts |= adapt_classifier(supernet, images, original.tells_classes, asked.seed, share, progress)
        if facts["head"] == "fitted" and share is not None:
            facts["fine_tuned"] = fine_tune(
                supernet, images, asked.seed, share, facts["probe"], progress, asked.precision
            )
    else:
        reestimate_batch_norm(supernet.network, calibration_batches(images, asked.seed))
        supernet = told_by_components(supernet, images, MOST_IMAGES)
        facts |= {"head": COMPONENTS, "components": supernet.space.classes}
    x_BCHW, calibration = calibration_of(supernet, images, facts["head"], asked.seed)
    precision = fast_precision(supernet.space, supernet.device)
    ordering = sort_by_importance(supernet, x_BCHW, calibration=replace(calibration, precision=precision))
    supernet = ordering.supernet
    rotated = rotate_heads(supernet, x_BCHW)
    facts |= _judged(supernet, images, facts["head"], asked.seed, progress)
    facts |= {
        "precision": precision,
        "criteria": dict(ordering.criteria),
        "losses": {axis: dict(losses) for axis, losses in ordering.losses.items()},
        "rotated_attentions": rotated,
    }
    return PretrainedStart(supernet, facts, time.monotonic() - started)


def calibration_of(supernet: Supernet, images: ImageData, head: str, seed: int) -> tuple[Tensor, Calibration]:
    """Training images ``(B, 3, H, W)`` for importance, and what networks are compared on.

    Args:
        supernet: The model.
        images: Images at its side.
        head: Where its classifier is from, as in ``front.json``.
        seed: Seed of the choice of images.
    """
    from supernets.calibration import Calibration

    count = min(CALIBRATION_IMAGES, images.splits["train"])
    x_BCHW, labels_B = next(iter(images.train_batches(count, seed, epoch=0)))
    if head == COMPONENTS:
        return x_BCHW, Calibration.of_views(supernet, x_BCHW, seed)
    return x_BCHW, Calibration.of(supernet, x_BCHW, None if head == "random" else labels_B)


def _judged(supernet: Supernet, images: ImageData, head: str, seed: int, progress: Progress) -> dict[str, Any]:
    """Accuracy of the whole model where its classifier tells classes, and whether it teaches."""
    if head == COMPONENTS:
        return {"teaches": False}
    evaluator = SupernetEvaluator(supernet, images, seed)
    accuracy, several = evaluator.evaluate(supernet.space.largest, seed).objective, images.has_several_labels
    is_above = accuracy > guessed(images, "search") if several else accuracy * images.classes > 1
    teaches = head != "random" and is_above
    if head != "random" and not teaches:
        said = f"has a mean average precision of {accuracy:.1%}" if several else f"is right on {accuracy:.1%}"
        progress(Notice(f"the model {said} of the search part, no more than chance: it teaches nothing"))
    return {"teaches": teaches, evaluator.name: accuracy}


def find_model(asked: ModelRequest, data: str, folder: Path | None, device: str, progress: Progress) -> PretrainedStart:
    """The model that a search is about: as it was prepared in ``folder``, else from its weights.

    Args:
        asked: The model.
        data: Source of the images, as `supernets.data.sources.load_data` takes it.
        folder: Run folder that may keep the prepared model; None for none.
        device: Where it is to be.
        progress: Told of the stage.

    Raises:
        DataError: The images cannot be used, or have changed.
        UnknownNameError, TimmModelError, SupernetError: As `prepare_model`.
    """
    from supernets.data.mask_folder import refuse_masks
    from supernets.data.sources import load_data

    images = load_data(data, get_space(space_of(asked.name)).image_side)
    if asked.uses_labels:
        refuse_masks(images)
    own = None if folder is None else kept_original(folder, images, device)
    if own is not None:
        return own
    return prepare_model(asked, images, device, progress)


def keep_original(own: PretrainedStart, images: ImageData, run: Path) -> None:
    """Write what was prepared into a run folder.

    Raises:
        CheckpointError: The file cannot be written.
    """
    from supernets.checkpoint import SCHEMA, CheckpointMetadata, save_checkpoint

    space = own.supernet.space
    metadata = CheckpointMetadata(
        schema=SCHEMA,
        space=space.name,
        version=space.version,
        classes=space.classes,
        step=0,
        total_steps=0,
        data=images.describe(),
        settings={"model": dict(own.facts)},
        training={"seconds": own.seconds},
    )
    save_checkpoint(original_checkpoint(run), own.supernet, {}, metadata)


def kept_original(run: Path, images: ImageData, device: str) -> PretrainedStart | None:
    """What was prepared when the run was started; None where it was killed before that was written.

    Raises:
        CheckpointError: The file is damaged.
        DataError: The images have changed.
    """
    from supernets.checkpoint import load_supernet

    path = original_checkpoint(run)
    if not path.exists():
        return None
    supernet, metadata = load_supernet(path, device)
    images.check(metadata["data"])
    return PretrainedStart(supernet, metadata["settings"]["model"], metadata["training"]["seconds"])


def check_model(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What was given of a search with a model of one's own, with the space that follows from it.

    Raises:
        UsageError: Something is missing, or contradicts the model.
    """
    if "model" not in chosen:
        if "weights" in chosen:
            raise UsageError("`weights` without `model`", hint="name the timm model that they belong to")
        return dict(chosen)
    for name in ("space", "supernet", "score"):
        if name in chosen:
            raise UsageError(f"both `model` and `{name}` are given", hint=f"leave `{name}` out")
    if "data" not in chosen:
        raise UsageError(
            f"model `{chosen['model']}` without images, expected those that it is to be good at",
            hint="add `data`; `nas profile` shows what could be searched without any",
        )
    return {"weights": PRETRAINED, **chosen, "space": space_of(chosen["model"])}
