"""Published hyper-parameters by name, as defaults that every setting can override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from search_spaces import UnknownNameError
from supernets.training.settings import TrainingSettings

RATE_IMAGES = 512
"""Batch size that a recipe's learning rate is for; it grows in proportion to the batch."""


@dataclass(frozen=True)
class Recipe:
    """How a paper trained its supernet, or its networks.

    Attributes:
        learning_rate: Peak for batches of 512 images.
        settings: Other settings that differ from the usual ones.
        alone: What is different for one network that is trained from scratch.
        spaces: What is different for the networks of a space, by its name.
        is_for_tuning: Whether trained weights are fine-tuned by it too, at their own rate and for fewer epochs.
    """

    learning_rate: float
    settings: Mapping[str, Any]
    alone: Mapping[str, Any] = field(default_factory=dict)
    spaces: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    is_for_tuning: bool = False


ELASTICVIT = Recipe(
    5e-4,
    {
        "policy": "conflict-aware",
        "epochs": 600,
        "cooldown_epochs": 10,
        "batch_size": 768,
        "weight_decay": 0.05,
        "decay": "published",
        "warmup_epochs": 5,
        "warmup_start": 1e-6 / 5e-4,
        "floor": 5e-6 / 5e-4,
        "clipping": "adaptive",
        "gradient_clip": 0.1,
        "ema_decay": 0.99985,
        "label_smoothing": 0.1,
        "augmentation": "elasticvit",
        "teachers": ("resnext101_32x4d.fb_swsl_ig1b_ft_in1k", "resnext101_32x8d.fb_swsl_ig1b_ft_in1k"),
        "temperature": 0.2,
    },
)
"""Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile
Devices", ICCV 2023, arXiv 2303.09730. It used 96 images per GPU, and does not say how many GPUs: eight are assumed."""

RESNAS = Recipe(
    5e-4,
    {
        "policy": "multi-architecture",
        "epochs": 120,
        "batch_size": 1024,
        "weight_decay": 0.05,
        "decay": "published",
        "warmup_epochs": 5,
        "warmup_start": 1e-6 / 1e-3,
        "floor": 1e-5 / 1e-3,
        "clipping": "none",
        "label_smoothing": 0.1,
        "augmentation": "resnas",
        "mixing": "token",
        "drop_path": 0.2,
        "precision": "fp16",
    },
    alone={"epochs": 300, "ema_decay": 0.99996},
    spaces={"resnas-small": {"drop_path": 0.3}},
)
"""Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642."""

RESNAS_FINETUNE = Recipe(
    1e-5,
    {
        **{name: value for name, value in RESNAS.settings.items() if name != "policy"},
        "epochs": 30,
        "batch_size": 256,
        "weight_decay": 1e-8,
        "warmup_start": 0.2,
        "floor": 1.0,
        "drop_path": 0.75,
        "ema_decay": 0.99996,
    },
)
"""The same paper's fine-tuning on larger images, of 280, 336 or 392 pixels. Its learning rate of 2.5e-6 lies below the
floor of 5e-6 that it also sets, so that it stays at 5e-6 after the warm-up."""

DEIT_LT = Recipe(
    5e-4,
    {
        "epochs": 1400,
        "batch_size": 256,
        "weight_decay": 0.05,
        "warmup_epochs": 5,
        "warmup_start": 1e-6 / 5e-4,
        "floor": 1e-5 / 5e-4,
        "clipping": "none",
        "augmentation": "deit",
        "teacher_target": "hard",
        "class_weights": "effective",
        "deferred": 0.9,
    },
    is_for_tuning=True,
)
"""Rangwani et al., "DeiT-LT", CVPR 2024, arXiv 2404.02900, without its stochastic depth of 0.1, which not all networks
have: it trains from scratch, and weighs classes from epoch 1,200 of 1,400 on on ImageNet-LT, 1,100 of 1,200 on CIFAR. A
network without a distillation token, or with one, takes both terms by the outputs that it is judged by."""

RECIPES: Mapping[str, Recipe] = {
    "elasticvit": ELASTICVIT,
    "resnas": RESNAS,
    "resnas-finetune": RESNAS_FINETUNE,
    "deit-lt": DEIT_LT,
}


def get_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in RECIPES:
        raise UnknownNameError("training recipe", name, RECIPES)
    return RECIPES[name]


def recipe_settings(
    name: str, given: Mapping[str, Any], *, space: str | None = None, is_alone: bool = False
) -> TrainingSettings:
    """The settings of a recipe, with those that are given in place of its own.

    The learning rate goes with the batch size unless it is given. With a time budget, warm-up keeps its share of the
    recipe's epochs and the epochs at the final rate fall away.

    Args:
        name: Name of the recipe.
        given: Settings by name.
        space: What the networks belong to.
        is_alone: Whether one network is trained, not a supernet.

    Raises:
        UnknownNameError: There is no such recipe.
        TrainingError: A setting is not known, or out of range.
    """
    recipe = get_recipe(name)
    own = {**recipe.settings, **(recipe.alone if is_alone else {}), **recipe.spaces.get(space or "", {})}
    settings = {**own, **given}
    settings.setdefault("learning_rate", recipe.learning_rate * settings["batch_size"] / RATE_IMAGES)
    if settings.get("budget_seconds") is not None:
        settings.setdefault("warmup", own["warmup_epochs"] / own["epochs"])
        settings = {key: value for key, value in settings.items() if key not in ("warmup_epochs", "cooldown_epochs")}
    elif "warmup" in given:
        settings.pop("warmup_epochs")
    return TrainingSettings.from_dict(settings)
