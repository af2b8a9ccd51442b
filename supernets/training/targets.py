"""The targets of a step's images: labels, mixed labels, and what teachers say.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from search_spaces import SearchSpace
from supernets.data.augmentation import get_augmentation, mix_images
from supernets.data.image_data import ImageData
from supernets.errors import TrainingError
from supernets.family import family_of
from supernets.supernet import Supernet
from supernets.training.distributed import ProcessGroup
from supernets.training.feature_distillation import FeatureTeacher
from supernets.training.losses import ImageTargets
from supernets.training.settings import TrainingSettings
from supernets.training.token_mixing import mix_tokens

Mix = Callable[[Tensor, Tensor, int], tuple[Tensor, ImageTargets]]
"""Images ``(B, 3, H, W)``, labels ``(B,)`` and number of a step to the mixed images and their targets."""
Teacher = Callable[[Tensor], Tensor]
"""Images ``(B, 3, H, W)`` to the probabilities ``(B, K)`` that teachers give."""
AnyTeacher = Teacher | FeatureTeacher
"""A teacher of classes, or what a whole network sees, which is learnt in place of labels."""

_STREAM = 2
"""Tells the random numbers of mixing from those of sampling."""


def make_mix(supernet: Supernet, settings: TrainingSettings, group: ProcessGroup) -> Mix | None:
    """How the images of a step are mixed; None where they are not.

    Raises:
        DataError: The augmentation is not known.
        TrainingError: Tokens are to be mixed, and the networks do not end with a map.
    """
    if settings.mixing == "token":
        return _token_mix(supernet, settings, group)
    augmentation = get_augmentation(settings.augmentation)
    if not (augmentation.mixup or augmentation.cutmix):
        return None
    classes = supernet.space.classes

    def mix(images_BCHW: Tensor, labels_B: Tensor, step: int) -> tuple[Tensor, ImageTargets]:
        generator = _generator(settings.seed, step)  # the same in all processes, see `mix_images`
        mixed_BCHW, targets_BK = mix_images(
            images_BCHW, labels_B, classes, augmentation, settings.label_smoothing, generator
        )
        return mixed_BCHW, ImageTargets(labels_B, targets_BK)

    return mix


def _token_mix(supernet: Supernet, settings: TrainingSettings, group: ProcessGroup) -> Mix:
    space = supernet.space
    side = patches_per_side(space)

    def mix(images_BCHW: Tensor, labels_B: Tensor, step: int) -> tuple[Tensor, ImageTargets]:
        generator = _generator(settings.seed, step, group.rank)
        mixed = mix_tokens(images_BCHW, labels_B, space.classes, side, settings.label_smoothing, generator)
        return mixed.images_BCHW, ImageTargets(labels_B, mixed.targets_BK, mixed.patch_targets_BPK)

    return mix


def patches_per_side(space: SearchSpace) -> int:
    """Side of the map of patches that the networks of a space end with.

    Raises:
        TrainingError: They do not end with one, so that tokens cannot be mixed.
    """
    *_, (_, head) = space.blocks(space.largest)
    side = family_of(space).map_side(head)
    if side is None:
        raise TrainingError(
            f"training setting `mixing`: networks of `{space.name}` do not end with a map, so tokens cannot be mixed",
            hint="train them with `mixing` `augmentation`",
        )
    return side


def make_teacher(settings: TrainingSettings, data: ImageData, device: torch.device) -> Teacher | None:
    """The teachers of a training; None where it has none.

    Raises:
        TrainingError: A teacher cannot be had, or knows other classes.
    """
    if not settings.teachers:
        return None
    from supernets.training.teachers import load_teachers

    return load_teachers(
        settings.teachers,
        data.class_names,
        settings.temperature,
        device,
        settings.teacher_weights or None,
        mean=data.mean,
        std=data.std,
        precision=torch.float32 if settings.precision == "fp32" else torch.bfloat16,
    )


def _generator(*numbers: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([*numbers, _STREAM])))
