"""A model of one's own as the beginning of a search: its weights become shared tensors, the most important first.

What is prepared is kept in the run folder as ``checkpoints/original.safetensors``: the whole network computes what the
model did, so that it can teach, be compared with, and be begun with again where a run is killed before its training has
written anything.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from nas.evaluation.evaluators import SupernetEvaluator
from nas.events import Notice, Progress, StageStarted
from nas.records.network import SIZES
from nas.runs.folder import original_checkpoint
from nas.runs.places import shown_place
from nas.training.adaptation import adapt_classifier, load_fitting
from nas.training.fine_tuning import fine_tune
from nas.training.session import Start
from search_spaces import get_space
from search_spaces.timm_models import PREFIX, TimmReference

if TYPE_CHECKING:
    from nas.objectives.bounds import Bounds
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.training.settings import TrainingSettings

PRETRAINED, RANDOM = "pretrained", "random"
CALIBRATION_IMAGES = 128
"""Training images that importance is judged on."""
ADAPTATION_SHARE = 0.15
"""Share of a budget that may go to the features for a fitted classifier, and as much to fine-tuning after that."""
PRETRAINED_RATE = 5e-4
"""Peak learning rate for weights that are trained already: an eighth of that for random ones."""


@dataclass(frozen=True)
class PretrainedStart:
    """A model that is ready to be searched.

    Attributes:
        supernet: Its weights, sorted by importance where they are trained.
        facts: What ``front.json`` says of it: ``name``, ``weights``, ``license``, ``teaches``, ``accuracy`` on the
            search part, ``criteria`` and ``losses`` of the ordering, and what `adapt_classifier` says.
        seconds: What the preparation took.
    """

    supernet: Supernet
    facts: Mapping[str, Any]
    seconds: float

    @property
    def space(self) -> str:
        """The name of its space, which holds the order of its blocks."""
        return self.supernet.space.name

    def start(self, training: TrainingSettings) -> Start:
        """What the training of the supernet begins with; the original teaches where it knows the classes.

        Args:
            training: Whose teachers, where it names some, take the place of the original.
        """
        from supernets.training.network_teacher import NetworkTeacher

        if training.teachers or not self.facts["teaches"]:
            return Start(self.supernet)
        original = self.supernet.extract(self.supernet.space.largest).to(self.supernet.device)
        return Start(self.supernet, NetworkTeacher(original))

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


def prepare_model(
    model: str,
    weights: str,
    images: ImageData,
    seed: int,
    device: str,
    progress: Progress,
    budget_seconds: float | None = None,
) -> PretrainedStart:
    """Load a model, fit it to the images' colours and classes, and sort it by importance.

    Where the weights have no classifier for these classes, one is fitted to the model's features, and if there is time
    the whole model is fine-tuned after that.

    Args:
        model: Name of a timm model, with arguments where wanted.
        weights: ``pretrained``, a file or folder, or ``random``.
        images: At the model's side.
        seed: Seed of random weights, and of the choice of calibration images.
        device: Where it is to be.
        progress: Told of the stage.
        budget_seconds: Time of the whole search, of which shares go to features and fine-tuning; None for no bound.

    Raises:
        UnknownNameError, TimmModelError: There is no such model, or it cannot be made elastic.
        CheckpointError: The weights cannot be had, or are of another model.
        SupernetError: The weights expect other colours, and cannot be changed for these.
    """
    import torch

    from supernets.importance import sort_by_importance
    from supernets.timm_models.rotation import rotate_heads

    started = time.monotonic()
    progress(StageStarted("prepare the model"))
    torch.manual_seed(seed)
    original, facts = load_fitting(model, None if weights == RANDOM else weights, images, progress)
    facts["weights"] = shown_place(weights)
    if weights == RANDOM:
        facts |= {"teaches": False}
        return PretrainedStart(original.supernet.to(device), facts, time.monotonic() - started)
    supernet = original.supernet.to(device)
    share = ADAPTATION_SHARE * budget_seconds if budget_seconds else None
    facts |= adapt_classifier(supernet, images, original.tells_classes, seed, share, progress)
    knows_classes = facts["head"] != "random"
    if facts["head"] == "fitted" and share is not None:
        facts["fine_tuned"] = fine_tune(supernet, images, seed, share, facts["probe"], progress)
    count = min(CALIBRATION_IMAGES, images.splits["train"])
    x_BCHW, labels_B = next(iter(images.train_batches(count, seed, epoch=0)))
    ordering = sort_by_importance(supernet, x_BCHW, labels_B if knows_classes else None)
    supernet = ordering.supernet
    rotated = rotate_heads(supernet, x_BCHW)
    accuracy = SupernetEvaluator(supernet, images, seed).evaluate(supernet.space.largest, seed).objective
    teaches = knows_classes and accuracy * images.classes > 1
    if knows_classes and not teaches:
        progress(
            Notice(f"the model is right on {accuracy:.1%} of the search part, no more than chance: it teaches nothing")
        )
    facts |= {
        "teaches": teaches,
        "accuracy": accuracy,
        "criteria": dict(ordering.criteria),
        "losses": {axis: dict(losses) for axis, losses in ordering.losses.items()},
        "rotated_attentions": rotated,
    }
    return PretrainedStart(supernet, facts, time.monotonic() - started)


def find_model(
    model: str,
    weights: str,
    data: str,
    *,
    seed: int,
    folder: Path | None,
    device: str,
    progress: Progress,
    budget_seconds: float | None = None,
) -> PretrainedStart:
    """The model that a search is about: as it was prepared in ``folder``, else from its weights.

    Args:
        model: Name of a timm model, with arguments where wanted.
        weights: ``pretrained``, a file or folder, or ``random``.
        data: Source of the images, as `supernets.data.sources.load_data` takes it.
        seed: Seed of random weights, and of the choice of calibration images.
        folder: Run folder that may keep the prepared model; None for none.
        device: Where it is to be.
        progress: Told of the stage.
        budget_seconds: Time of the whole search; None for no bound.

    Raises:
        DataError: The images cannot be used, or have changed.
        UnknownNameError, TimmModelError, SupernetError: As `prepare_model`.
    """
    from supernets.data.sources import load_data

    images = load_data(data, get_space(space_of(model)).image_side)
    own = None if folder is None else kept_original(folder, images, device)
    if own is not None:
        return own
    return prepare_model(model, weights, images, seed, device, progress, budget_seconds)


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
