"""Who teaches a network that is finished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nas.errors import UsageError
from nas.evaluation.evaluators import calibration_batches
from nas.finishing.source import Inherited, Source
from nas.runs.folder import checkpoint_header

if TYPE_CHECKING:
    import torch
    from torch import nn

    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.training.settings import TrainingSettings
    from supernets.training.targets import AnyTeacher

LARGEST, ORIGINAL, NONE, ITSELF = "largest", "original", "none", "itself"


def default_teacher(source: Source, inherited: Inherited | None) -> str:
    """``original`` where a run keeps a model that knows the classes, ``largest`` in a supernet, else ``none``.

    An imported supernet may tell other classes than the images have, and its largest network need not be its best.
    """
    if not source.uses_labels:
        return ORIGINAL
    if inherited is None or inherited.is_alone or inherited.is_imported:
        return NONE
    return ORIGINAL if source.original is not None and _teaches(source.original) else LARGEST


def check_teacher(name: str, source: Source, inherited: Inherited | None) -> None:
    """Make sure that there is such a teacher among our own.

    Raises:
        UsageError: There is not, or networks without labels have nothing to learn from it.
    """
    if not source.uses_labels:
        if name != ORIGINAL or source.original is None:
            found = f"teacher `{name}`" if name != ORIGINAL else "a run that does not keep that model"
            raise UsageError(
                f"without labels a network learns what the model sees that it was cut out of, found {found}",
                hint="finish from the folder of the search with `--labels none`, without `--teacher`",
            )
        return
    if name == LARGEST and (inherited is None or inherited.is_alone):
        raise UsageError(
            "teacher `largest` is the largest network of a supernet, but there is no supernet",
            hint="finish from a run that has one, or name a network of timm",
        )
    if name == LARGEST and inherited is not None and inherited.is_imported:
        raise UsageError(
            "teacher `largest` of an imported supernet, whose classes need not be those of the images",
            hint="name a network of timm, or `none`",
        )
    if name == ORIGINAL and (source.original is None or not _teaches(source.original)):
        found = "there is none" if source.original is None else "that one was made for other classes"
        raise UsageError(
            f"teacher `original` is the model that a search with `--model` began with, but {found}",
            hint="take `largest`, a network of timm, or `none`",
        )


def make_teacher(
    name: str,
    source: Source,
    inherited: Inherited | None,
    images: ImageData,
    training: TrainingSettings,
    device: torch.device,
) -> AnyTeacher | None:
    """The teacher of a finish, on ``device``; None for none. Without labels what the original sees is learnt.

    Args:
        name: ``largest``, ``original``, ``none``, or a network of timm.
        source: Source of the network that is finished.
        inherited: The supernet that ``largest`` belongs to.
        images: That it teaches on.
        training: How; its teachers, temperature and precision count.
        device: Where it runs.

    Raises:
        TrainingError: It cannot be had, or knows other classes.
        CheckpointError: The original model's file is damaged.
    """
    import torch

    from supernets.checkpoint import load_supernet
    from supernets.training.feature_distillation import FeatureTeacher
    from supernets.training.network_teacher import NetworkTeacher
    from supernets.training.targets import make_teacher

    precision = torch.float32 if training.precision == "fp32" else torch.bfloat16
    supernet = None
    if name == LARGEST and inherited is not None:
        supernet = inherited.supernet
    elif name == ORIGINAL and source.original is not None:
        supernet, _ = load_supernet(source.original)
        if not source.uses_labels:
            return FeatureTeacher(supernet.to(device), precision)
    if supernet is not None:
        network = _largest(supernet, images, training.seed)
        return NetworkTeacher(network.to(device), training.temperature, precision, images.has_several_labels)
    return make_teacher(training, images, device)


def _largest(supernet: Supernet, images: ImageData, seed: int) -> nn.Module:
    """The largest network of a supernet, with BatchNorm statistics of its own."""
    from supernets.batch_norm import reestimate_batch_norm

    network = supernet.extract(supernet.space.largest).eval()
    reestimate_batch_norm(network, calibration_batches(images, seed))
    return network


def _teaches(original: Path) -> bool:
    """Whether a kept model tells the classes of the images that it was searched for."""
    return bool(checkpoint_header(original)["settings"]["model"]["teaches"])
