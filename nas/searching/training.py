"""How a search trains the supernet whose networks it ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas.searching.settings import SearchSettings
from nas.training.fine_tuning import pretrained_rate
from nas.training.options import make_settings
from nas.training.pretrained import RANDOM
from nas.training.request import check_named_teachers, check_random_weights, default_policy, form_to_train
from search_spaces import SearchSpace, get_space

if TYPE_CHECKING:
    from supernets.training.settings import TrainingSettings


def search_training(settings: SearchSettings, seconds: float | None) -> TrainingSettings:
    """The trainer's settings: what was asked for, else its own; gentle ones for weights that are trained already.

    Args:
        settings: Settings of the search.
        seconds: What the training gets; None where time does not bound the search.

    Raises:
        UnknownNameError: There is no such policy.
        TrainingError: A setting is out of range.
        UsageError: Weights that are random are to change by little.
    """
    is_random = settings.model is None or settings.weights == RANDOM
    gentle = {} if is_random else {"learning_rate": pretrained_rate(get_space(settings.space))}
    asked = {"budget_seconds": seconds, "seed": settings.seed, "options": {**gentle, **settings.options}}
    training = make_settings(asked, policy=settings.policy or default_policy(seconds, settings.space))
    if is_random:
        check_random_weights(training)
    return training


def check_training(training: TrainingSettings, space: SearchSpace) -> None:
    """Make sure, before anything is written, that networks of the space can be trained so.

    Raises:
        TrainingError, SearchSpaceError: They cannot.
        UsageError: A teacher does not exist.
    """
    form_to_train(space, training, space.image_side)
    check_named_teachers(training)
