"""What a user asks of a training, resolved: settings of the run, its space, and the trainer's own settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from nas.networks.resolve import resolve_architecture
from nas.runs.folder import check_same, recorded_settings
from nas.runs.settings import Given, check_command, check_unchanged, folder_to_resume, session_settings
from nas.training.options import checked_options, make_settings, recordable
from nas.training.settings import TrainSettings
from search_spaces import Architecture, SearchSpace, SingleSpace, find_architecture, get_space, space_names

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.training.settings import TrainingSettings

SINGLE_POLICY = "uniform"
POLICY_BY_TIME, POLICY_BY_EPOCHS, POLICY_WITH_NUCLEUS = "uniform", "sandwich", "widening"
"""Of supernets, unless told: in equal time more steps of one network do better, in equal steps more networks a step."""


def run_settings(given: Given) -> TrainSettings:
    """The run's settings: what is recorded where a run is resumed, else what was given; defaults for the rest.

    Raises:
        UsageError: What is given makes no sense together, or there is nothing to resume.
        RunError: The run folder holds another run, or what is given differs from what is recorded there.
    """
    from supernets.training.settings import CHANGEABLE

    if "epochs" in given and "budget_seconds" in given:
        raise UsageError("both `epochs` and `budget_seconds` are given, expected one of them")
    options = checked_options(given.get("options", {}))
    given = {**given, "options": options}
    if "arch" in given:
        architecture = find_network(given["arch"], given.get("space"))
        given |= {"space": architecture.space, "arch": json.dumps(architecture.to_dict())}
    folder = folder_to_resume(given)
    recorded = None if folder is None else recorded_settings(folder)
    if recorded is None or folder is None:
        settings = TrainSettings(**given)
        return replace(settings, policy=_policy(settings))
    settings = _resumed(given, recorded, folder)
    options = {**settings.options, **{name: value for name, value in options.items() if name in CHANGEABLE}}
    return replace(settings, options=options, validate=given.get("validate", settings.validate))


def trainer_settings(settings: TrainSettings) -> TrainingSettings:
    """The trainer's settings from those of a run."""
    return make_settings(settings.recorded(), policy=settings.policy)


def load_images(
    settings: TrainSettings, space: SearchSpace, training: TrainingSettings, is_quiet: bool = False
) -> ImageData:
    """The images of a run, at the side of its space."""
    from supernets.data.mask_folder import refuse_masks
    from supernets.data.sources import load_data

    images = load_data(
        settings.data,
        space.image_side,
        augmentation=training.augmentation,
        hflip=training.hflip,
        is_quiet=is_quiet,
    )
    refuse_masks(images)
    return images


def find_space(settings: TrainSettings) -> SearchSpace:
    """The space of a run: that of a name, or of the one network, for images of the size that was asked for.

    Raises:
        UnknownNameError: There is no such space.
        SearchSpaceError: Its networks cannot compute on such images.
    """
    from supernets.family import training_form

    space, architecture = get_space(settings.space), settings.architecture
    if architecture is not None:
        space = SingleSpace(space, space.parse(architecture.to_dict()))
    return training_form(space, image_side=settings.image_size)


def form_to_train(space: SearchSpace, training: TrainingSettings, image_side: int) -> SearchSpace:
    """The space as it is trained, with stochastic depth, and a classifier of patches where its networks have one.

    Args:
        space: Made for the right number of classes.
        training: What is asked for.
        image_side: Side in pixels of the images.

    Raises:
        TrainingError: Tokens are to be mixed, and the networks do not end with a map of them.
        SearchSpaceError: The networks have no stochastic depth, or cannot compute on such images.
    """
    from supernets.family import family_of, training_form
    from supernets.training.targets import patches_per_side

    mixes_tokens = training.mixing == "token"
    if mixes_tokens:
        patches_per_side(space)
    classifies = mixes_tokens and family_of(space).has_patch_classifier
    return training_form(space, image_side=image_side, drop_path=training.drop_path, patch_classifier=classifies)


def check_random_weights(training: TrainingSettings) -> None:
    """Make sure that a training which begins with random weights may change them freely.

    Raises:
        UsageError: It may not.
    """
    if training.low_rank:
        raise UsageError(
            "training setting `low_rank`: the weights are random, and changes of low rank do not get far from them",
            hint="leave it out, or begin with trained weights: `nas search --model` or `nas finish`",
        )


def check_named_teachers(training: TrainingSettings) -> None:
    """Make sure that the networks of timm that are to teach exist, without loading them.

    Raises:
        UsageError: One does not, or has no weights.
    """
    if not training.teachers:
        return
    from supernets.errors import TrainingError
    from supernets.training.teachers import check_teachers

    try:
        check_teachers(training.teachers, training.teacher_weights)
    except TrainingError as error:
        raise UsageError(str(error), hint=error.hint) from error


def find_network(text: str, space: str | None) -> Architecture:
    """The architecture that ``text`` names, of ``space`` where that is given.

    Raises:
        UsageError: The text names a network that belongs to no space, or to another one.
        TimmModelError: It is a timm model that cannot be made elastic.
        UnknownNameError: Nothing goes by the name.
        ArchitectureError: The text holds no valid architecture.
    """
    own_names = space_names()
    prefix = re.split("[/:]", text, maxsplit=1)[0]
    is_elsewhere = (
        text.lstrip().startswith("{") or prefix in own_names or os.path.exists(text.rpartition(":")[0] or text)
    )
    if space is not None and not is_elsewhere:
        return find_architecture(f"{space}{':' if '|' in text else '/'}{text}")[1]
    architecture = resolve_architecture(text)
    if space is not None and space not in (prefix, architecture.space):
        raise UsageError(f"network `{text}` is of space `{architecture.space}`, found space `{space}`")
    return architecture


def _policy(settings: TrainSettings) -> str | None:
    """The policy of a training; None for the recipe's."""
    name = settings.policy
    if name is None:
        if settings.arch is not None:
            return SINGLE_POLICY
        return default_policy(settings.budget_seconds, settings.space) if settings.recipe is None else None
    if settings.arch is not None and name != SINGLE_POLICY:
        raise UsageError(
            f"policy `{name}` chooses networks, but one network is to be trained alone",
            hint="leave `--policy` out, or train the supernet of the space",
        )
    return name


def default_policy(budget_seconds: float | None, space: str | None) -> str:
    """The policy of a supernet's training for so many seconds, or for epochs, in a space where that is known."""
    if space is not None and get_space(space).nucleus:
        return POLICY_WITH_NUCLEUS
    has_kinds = space is not None and not all(choice.is_ordered for choice in get_space(space).choices)
    return POLICY_BY_EPOCHS if budget_seconds is None and not has_kinds else POLICY_BY_TIME


def _resumed(given: Given, recorded: Mapping[str, Any], folder: Path) -> TrainSettings:
    """What a run was started with, checked against what is given now."""
    from supernets.training.settings import CHANGEABLE

    check_command(recorded, "train", folder)
    settings = TrainSettings.from_record(recorded, session_settings(TrainSettings, given))
    settings = replace(settings, policy=_policy(settings))
    training = trainer_settings(settings).to_dict()
    started = {**recorded, "arch": settings.arch, "policy": training["policy"]}
    check_unchanged(TrainSettings, given, started, folder)
    for name, value in recordable(given["options"]).items():
        if name not in CHANGEABLE:
            check_same(folder, name, training[name], value)
    return settings
