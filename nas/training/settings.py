"""The settings of `nas train`, each typed once: see `nas.runs.settings` for what is made from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nas.objectives.units import DURATION
from nas.runs.settings import TRACK, Given, Receiver, RunSettings, Setting, read_recorded

if TYPE_CHECKING:
    from search_spaces import Architecture

TRAINED, TRAINING, PLACE, OUTPUT = "What is trained", "Training", "Where it runs", "Output"


@dataclass(frozen=True, kw_only=True)
class TrainingRun(RunSettings):
    """Settings of every verb that is one training."""

    track: Annotated[list[str], Setting(TRACK, OUTPUT, "none", metavar="NAMES", is_recorded=False)] = field(
        default_factory=list
    )
    epochs: Annotated[
        int | None,
        Setting(
            "Passes over the training images.",
            TRAINING,
            "that of `recipe`, else 22, or 30 to fine-tune inherited weights",
            least=1,
        ),
    ] = None
    budget_seconds: Annotated[
        float | None,
        Setting(
            "Time to train, for example 30m, in place of `epochs`.",
            TRAINING,
            option="budget",
            metavar="TIME",
            measure=DURATION,
        ),
    ] = None
    image_size: Annotated[
        int | None,
        Setting(
            "Side of the images in pixels, for spaces whose networks can be had for others.",
            TRAINING,
            "that of the space",
            metavar="PIXELS",
            least=1,
        ),
    ] = None
    recipe: Annotated[
        str | None,
        Setting(
            "Published settings: elasticvit, resnas, resnas-finetune or deit-lt, see `supernets.training.recipes`."
            " Whatever else is given comes first.",
            TRAINING,
            "none",
        ),
    ] = None
    options: Annotated[
        dict[str, Any],
        Setting(
            "Further settings of the training, for example learning_rate=1e-4, see"
            " `supernets.training.settings.TrainingSettings`. Repeatable.",
            TRAINING,
            option="set",
            metavar="NAME=VALUE",
            kind="assignments",
        ),
    ] = field(default_factory=dict)
    device: Annotated[
        str | None,
        Setting(
            "Where it is trained, for example cuda.",
            PLACE,
            "the first GPU if there is one, else the CPU",
            kind="device",
            is_recorded=False,
        ),
    ] = None


@dataclass(frozen=True)
class TrainSettings(TrainingRun):
    """The settings of `nas train`."""

    space: Annotated[str, Setting("Search space, see `nas spaces`.", TRAINED, "that of `arch`, else elastic-mini")] = (
        "elastic-mini"
    )
    data: Annotated[
        str, Setting("Images to train on: digits, glyphs, a folder of images, or a dataset of timm.", TRAINED)
    ] = "digits"
    _: KW_ONLY
    arch: Annotated[
        str | None,
        Setting(
            "One network to train alone: `space/name`, the space's text form, an architecture as JSON or in a file, or"
            " RUN:knee.",
            TRAINED,
            "none, for the whole supernet",
        ),
    ] = None
    progressive: Annotated[
        bool,
        Setting(
            "Begin on large patches, for spaces with a patch embedding, see `supernets.training.progressive`.", TRAINING
        ),
    ] = False
    policy: Annotated[
        str | None,
        Setting(
            "Which networks a step trains: uniform, sandwich, widening, complexity-aware, conflict-aware, fair,"
            " multi-architecture, or a registered one.",
            TRAINING,
            "that of `recipe`, else widening for mixers, uniform with `budget_seconds` or kinds to choose among, and"
            " sandwich without",
        ),
    ] = None
    seed: Annotated[int, Setting("Seed of weights, networks and images.", TRAINING, least=0)] = 0
    validate: Annotated[
        list[str],
        Setting(
            "Subnets to judge on the search part of the images after every epoch, with commas: smallest,largest.",
            TRAINING,
            "none",
            metavar="NAMES",
            may_change=True,
        ),
    ] = field(default_factory=list)
    launcher: Annotated[
        str | None, Setting("How to start `workers` processes: ray, on a cluster.", PLACE, "none", is_recorded=False)
    ] = None
    workers: Annotated[int | None, Setting("Processes that `launcher` starts.", PLACE, least=1, is_recorded=False)] = (
        None
    )
    ray_address: Annotated[
        str | None,
        Setting(
            "Address of the Ray cluster to join, for example auto.",
            PLACE,
            "a cluster of this machine alone",
            metavar="ADDRESS",
            is_recorded=False,
        ),
    ] = None
    tensorboard: Annotated[bool, Setting("Write TensorBoard events too.", OUTPUT, is_recorded=False)] = False

    @property
    def architecture(self) -> Architecture | None:
        """The one network; None for a supernet."""
        from search_spaces import Architecture

        return None if self.arch is None else Architecture.from_dict(json.loads(self.arch))

    @property
    def folder_name(self) -> str:
        """What the run folder is called, but for its number."""
        return f"{self.space}-{'supernet' if self.arch is None else 'network'}"

    def to_repeat(self) -> dict[str, Any]:
        """What a new run is given to do the same."""
        return super().recorded()

    def recorded(self) -> dict[str, Any]:
        """The settings that the run folder keeps, ready for JSON; the network as ``architecture``."""
        kept = super().recorded()
        arch = kept.pop("arch")
        return {**kept, "architecture": None if arch is None else json.loads(arch)}

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any], given: Given | None = None) -> TrainSettings:
        """The settings that a run folder keeps, with those that it does not keep as they are given."""
        kept = read_recorded(cls, recorded)
        if recorded.get("architecture") is not None:
            kept["arch"] = json.dumps(recorded["architecture"])
        return cls(**{**kept, **(given or {})})


@dataclass(frozen=True)
class AdaptSettings:
    """The settings of `nas adapt`."""

    model: Annotated[
        str,
        Setting("Model of timm, for example vit_small_patch14_dinov2.", "Arguments", kind="argument", metavar="MODEL"),
    ]
    data: Annotated[Path | str, Setting("Folder with pictures, without labels, however they are laid out.", TRAINED)]
    output: Annotated[Path | str, Setting("Folder to write the weights to.", OUTPUT)]
    _: KW_ONLY
    weights: Annotated[
        Path | str, Setting("Weights to begin with: `pretrained` for timm's, or a file or folder.", TRAINED)
    ] = "pretrained"
    epochs: Annotated[int, Setting("Passes over the pictures.", TRAINING, least=1)] = 10
    batch_size: Annotated[int, Setting("Pictures in a step.", TRAINING, least=2)] = 64
    rank: Annotated[int, Setting("Rank of the change of query and value rows.", TRAINING, least=1)] = 64
    seed: Annotated[int, Setting("Seed of crops and weights.", TRAINING, least=0)] = 0
    device: Annotated[
        str | None,
        Setting("Device of PyTorch's.", PLACE, "a GPU where there is one, else the CPU", kind="device"),
    ] = None
    progress: Receiver = None
