"""What a finish is to do: its settings, its training and its images, from what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from nas.evaluation.accuracy import check_one_label
from nas.evaluation.evaluators import FP32
from nas.finishing.exit_choice import check_risk
from nas.finishing.exits import ExitRequest
from nas.finishing.quantised import EPOCHS, in_relu, wanted_precisions
from nas.finishing.settings import FinishSettings
from nas.finishing.source import Inherited, Source, find_source, load_inherited
from nas.finishing.teacher import ITSELF, LARGEST, NONE, ORIGINAL, check_teacher, default_teacher
from nas.runs.folder import check_same, source_card, supernet_checkpoint
from nas.runs.places import identity_of, source_beside
from nas.runs.settings import Given, check_command, check_unchanged, session_settings
from nas.training.fine_tuning import pretrained_rate
from nas.training.options import checked_options, make_settings, recordable
from nas.training.request import (
    SINGLE_POLICY,
    check_named_teachers,
    check_random_weights,
    find_network,
    form_to_train,
)
from search_spaces import Architecture, SearchSpace, SingleSpace, get_space

if TYPE_CHECKING:
    from nas.quantisation.evaluated import Wanted
    from supernets.data.image_data import ImageData
    from supernets.training.settings import TrainingSettings

COMMAND = "finish"
DEFAULT_TARGET = "pixel6"
FINE_TUNING_EPOCHS = 30
FINE_TUNING_RATE = 0.25
"""Peak of the learning rate of inherited weights, as a share of what they were trained with."""
EMA_DECAY = 0.9999
TEMPERATURE = 1.0
AS_TRAINED = (
    "batch_size",
    "learning_rate",
    "weight_decay",
    "decay",
    "loss",
    "label_smoothing",
    "gradient_clip",
    "clipping",
    "augmentation",
    "mixing",
    "drop_path",
    "precision",
)
"""Settings that follow the inherited weights' own training where they are not given."""
PACE = ("batch_size", "learning_rate")
"""Those that do so beside a recipe for fine-tuning."""


@dataclass(frozen=True)
class FinishPlan:
    """Everything that is known before the run folder is touched.

    Attributes:
        settings: Settings of the run, with defaults for what was not given.
        source: The network.
        inherited: Weights that it starts from, or that its teacher has; None for none.
        images: To train and judge it on.
        training: How it is trained.
        space: Space of the one network, as it is trained.
        inherited_space: The same with the activations that its inherited weights know.
        exits: What is asked of early exits; None for none.
        soup: Weights of other finished runs that may be averaged with those of this one, by run.
    """

    settings: FinishSettings
    source: Source
    inherited: Inherited | None
    images: ImageData
    training: TrainingSettings
    space: SearchSpace
    inherited_space: SearchSpace
    exits: ExitRequest | None
    soup: Mapping[str, Inherited]

    @property
    def exit_target(self) -> str:
        """The device that exits are chosen for."""
        return self.settings.target or next(iter(self.source.card.get("latency", {})), DEFAULT_TARGET)

    @property
    def architecture(self) -> Architecture:
        """The network, as it is trained."""
        return alone(self.space)

    @property
    def wanted(self) -> Wanted:
        """What its layers are to compute in."""
        settings = self.settings
        if settings.quantise is None:
            return FP32
        return wanted_precisions(settings.quantise, settings.run, settings.pick)

    @property
    def starts_inherited(self) -> bool:
        """Whether the network starts from inherited weights."""
        return self.settings.start == "inherited"

    def document(self) -> dict[str, Any]:
        """What a run folder records of it; with that, `make_plan` makes the same plan again."""
        return {
            "command": COMMAND,
            **self.settings.recorded(),
            "space": self.space.name,
            "architecture": self.architecture.to_dict(),
            "training": self.training.to_dict(),
            "digest": None if self.inherited is None else self.inherited.digest,
            "soup_digests": [found.digest for found in self.soup.values()],
            **identity_of(self.images),
            "card": self._card(),
        }

    def _card(self) -> dict[str, Any]:
        """What the model card says beside the training; latency was predicted for the images of the source."""
        is_resized = self.settings.image_size is not None
        card = self.source.card
        return {name: card[name] for name in card if not (is_resized and name in ("latency", "sources"))}


def make_plan(given: Given, recorded: Mapping[str, Any] | None, folder: Path | None) -> FinishPlan:
    """What is to be done, checked as far as that goes without training.

    Args:
        given: Settings that were given, see `nas.finishing.settings.FinishSettings`.
        recorded: Record of the run that is resumed; None for a new one.
        folder: Folder of that run, for messages.

    Raises:
        As `nas.finish`.
    """
    from supernets.data.mask_folder import refuse_masks
    from supernets.data.sources import load_data
    from supernets.training.settings import CHANGEABLE, TrainingSettings
    from supernets.training.trainer import check_suits_several_labels

    options = checked_options(given.get("options", {}))
    given = _with_network(given)
    if recorded is None or folder is None:
        settings = FinishSettings(**{**given, "options": recordable(options)})
    else:
        _check_agrees(given, options, recorded, folder)
        settings = FinishSettings.from_record(recorded, session_settings(FinishSettings, given))
    exits = ExitRequest.of(settings)
    source = find_source(None if settings.run is None else Path(settings.run), settings.pick, settings.arch)
    inherited = None if source.checkpoint is None else load_inherited(source.checkpoint)
    if inherited is not None and inherited.is_imported:
        source = replace(source, card={"source_model": source_card(inherited.metadata["imported"]), **source.card})
    settings = _completed(settings, source, inherited)
    assert settings.data is not None
    if recorded is not None:
        training = TrainingSettings.from_dict(recorded["training"])
        training = replace(training, **{name: value for name, value in options.items() if name in CHANGEABLE})
    else:
        training = _training_settings(settings, options, source, inherited)
    check_named_teachers(training)
    if settings.start == "scratch":
        check_random_weights(training)
    base = get_space(source.architecture.space) if inherited is None else inherited.supernet.space
    side = settings.image_size or base.image_side
    images = load_data(settings.data, side, augmentation=training.augmentation, hflip=training.hflip)
    refuse_masks(images)
    if inherited is not None and not inherited.is_imported:
        images.check({**inherited.metadata["data"], "image_side": side})
    classes = images.classes if source.uses_labels else base.classes
    inherited_space = _trained_form(base.name, classes, source.architecture, training, side)
    space = inherited_space
    if settings.relu:
        changed = in_relu(source.architecture)
        space = _trained_form(changed.space, classes, changed, training, side)
    if images.has_several_labels and source.uses_labels:
        check_suits_several_labels(training, images.source)
        if settings.quantise is not None:
            check_one_label(images, "`quantise`")
    if exits is not None:
        check_one_label(images, "early exits")
        check_risk(exits.risk, images.splits["search"])
    soup = {run: _other_run(run, source.architecture, images) for run in settings.soup}
    return FinishPlan(settings, source, inherited, images, training, space, inherited_space, exits, soup)


def _other_run(run: str, architecture: Architecture, images: ImageData) -> Inherited:
    """The weights of another finished run of a network.

    Raises:
        UsageError: It holds another network, or several.
        CheckpointError: There are no weights, or they are damaged.
        DataError: They were trained on other images.
    """
    found = load_inherited(supernet_checkpoint(Path(run)))
    held = found.supernet.space.architecture
    if held != architecture:
        what = "a supernet" if held is None else "another network"
        raise UsageError(
            f"`soup`: `{run}` holds {what}, expected the network that is finished",
            hint="name runs of `nas finish` on the same network, with other seeds or settings",
        )
    images.check({**found.metadata["data"], "image_side": images.image_side})
    return found


def _with_network(given: Given) -> Given:
    """What was given, with the network itself in place of a file or a run that holds it."""
    arch = given.get("arch")
    if arch is None or (not Path(arch).exists() and not Path(arch.rpartition(":")[0] or arch).exists()):
        return given
    return {**given, "arch": json.dumps(find_network(arch, None).to_dict())}


def alone(space: SearchSpace) -> Architecture:
    """The network of a space of one."""
    assert space.architecture is not None, "a space of one"
    return space.architecture


def _trained_form(
    name: str, classes: int, architecture: Architecture, training: TrainingSettings, side: int
) -> SearchSpace:
    base = get_space(name, classes).base
    return form_to_train(SingleSpace(base, base.parse(architecture.to_dict())), training, side)


def _completed(settings: FinishSettings, source: Source, inherited: Inherited | None) -> FinishSettings:
    """The settings with defaults for what is None, checked against each other."""
    if settings.start == "inherited" and inherited is None:
        raise UsageError(
            "there are no weights to inherit",
            hint="name a run that has some, for example a search with `--data` or `--supernet`, or start from scratch",
        )
    trained_on = None
    if inherited is not None and source.checkpoint is not None and not inherited.is_imported:
        trained_on = source_beside(source.checkpoint, inherited.metadata["data"]["source"])
    data = settings.data or source.data or trained_on
    if data is None:
        raise UsageError("no images to train on", hint="add `--data`, for example `--data digits`")
    if settings.relu and settings.quantise is None:
        raise UsageError("`relu` without `quantise`, which it is a part of", hint="add `--quantise int8`")
    if settings.quantise is not None:
        wanted_precisions(settings.quantise, settings.run, settings.pick)
        if settings.start == "scratch":
            raise UsageError("`quantise` and a start from scratch, expected inherited weights", hint="finish twice")
    if not source.uses_labels:
        for name, asked in (("quantise", settings.quantise), ("exits", settings.exits)):
            if asked is not None:
                raise UsageError(
                    f"`{name}` in a finish of a search without labels, which would learn from them",
                    hint=f"leave `{name}` out",
                )
    own = ITSELF if settings.quantise is not None else default_teacher(source, inherited)
    teacher = settings.teacher or own
    check_teacher(teacher, source, inherited)
    if settings.image_size is not None and settings.image_size < 1:
        raise UsageError(f"`image_size` is {settings.image_size}, expected more than 0")
    start = settings.start or ("scratch" if inherited is None else "inherited")
    return replace(settings, start=start, data=data, teacher=teacher)


def _training_settings(
    settings: FinishSettings, options: Mapping[str, Any], source: Source, inherited: Inherited | None
) -> TrainingSettings:
    """How the network is trained: what is given, then the recipe or the inherited weights' own training."""
    from supernets.training.recipes import get_recipe
    from supernets.training.settings import TrainingSettings

    defaults: dict[str, Any] = {"temperature": TEMPERATURE}
    epochs, teacher = settings.epochs, settings.teacher or NONE
    recipe = None if settings.recipe is None else get_recipe(settings.recipe)
    if recipe is None or (recipe.is_for_tuning and settings.start == "inherited"):
        defaults |= {"ema_decay": EMA_DECAY} | ({} if recipe is None else {"warmup": TrainingSettings.warmup})
        if inherited is not None:
            trained = inherited.metadata["settings"]
            if "model" in trained:
                precision = trained["model"].get("precision", TrainingSettings.precision)
                defaults |= {"learning_rate": pretrained_rate(inherited.supernet.space), "precision": precision}
            kept = AS_TRAINED if recipe is None else PACE
            defaults |= {name: trained[name] for name in kept if name in trained}
        if settings.start == "inherited":
            rate = defaults.get("learning_rate", TrainingSettings.learning_rate)
            defaults["learning_rate"] = FINE_TUNING_RATE * rate
            epochs = epochs or (None if settings.budget_seconds else FINE_TUNING_EPOCHS)
        if settings.quantise is not None:
            defaults |= {"ema_decay": None, "weight_decay": 0.0}
            epochs = settings.epochs or (None if settings.budget_seconds else EPOCHS)
    if teacher not in (LARGEST, ORIGINAL, NONE, ITSELF):
        defaults["teachers"] = tuple(name.strip() for name in teacher.split(","))
    elif options.get("teachers"):
        raise UsageError(f"setting `teachers` beside teacher `{teacher}`", hint="name the networks by `--teacher`")
    named = {
        **settings.recorded(),
        "epochs": epochs,
        "space": source.architecture.space,
        "architecture": source.architecture.to_dict(),
        "options": {**defaults, **options},
    }
    training = make_settings(named, policy=SINGLE_POLICY)
    if training.teacher_target == "hard" and teacher == NONE:
        asked = f"recipe `{settings.recipe}`" if settings.recipe else "setting `teacher_target` `hard`"
        raise UsageError(
            f"{asked} learns what a teacher says, but there is none",
            hint="name one by `--teacher`, for example a convolutional network that was trained on these images",
        )
    _check_labels(training, teacher, source.uses_labels, "add `--set teacher_target=hard`, or `--teacher none`")
    return training


def check_winner_options(options: Mapping[str, Any], uses_labels: bool) -> None:
    """Refuse, before a search has spent anything, what the finish of its winner would refuse.

    Args:
        options: Training settings of the search, whose original teaches the winner.
        uses_labels: Whether the search does.

    Raises:
        TrainingError: A setting is out of range.
        UsageError: Settings contradict the teacher, or each other.
    """
    if options.get("teachers"):
        raise UsageError(
            "setting `teachers` in a search inside a model, whose original teaches the network that is chosen",
            hint="leave it out; `nas finish RUN --teacher NAME` takes another teacher",
        )
    training = make_settings({"budget_seconds": 1.0, "options": dict(options)}, policy=SINGLE_POLICY)
    _check_labels(training, ORIGINAL, uses_labels, "add `--set teacher_target=hard`")


def _check_labels(training: TrainingSettings, teacher: str, uses_labels: bool, remedy: str) -> None:
    if training.teacher_target == "hard" and not uses_labels:
        raise UsageError(
            "setting `teacher_target` `hard` in a finish of a search without labels, where nothing tells classes",
            hint="leave it, and `recipe`, out",
        )
    if training.class_weights != "none" and training.teacher_target == "soft" and teacher != NONE:
        raise UsageError(
            f"setting `class_weights` beside the soft outputs of teacher `{teacher}`, which have no class to weigh",
            hint=remedy,
        )


def _check_agrees(given: Given, options: Mapping[str, Any], recorded: Mapping[str, Any], folder: Path) -> None:
    from supernets.training.settings import CHANGEABLE

    check_command(recorded, COMMAND, folder)
    check_unchanged(FinishSettings, given, recorded, folder)
    for name, value in recordable(options).items():
        if name not in CHANGEABLE:
            check_same(folder, name, recorded["training"].get(name), value)
