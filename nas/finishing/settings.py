"""The settings of `nas finish`, each typed once: see `nas.runs.settings` for what is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

from nas.runs.settings import Given, Setting, read_recorded
from nas.training.settings import TRAINED, TRAINING, TrainingRun

TOLERANCE = 0.3
"""Points of accuracy that fewer bits may cost."""


@dataclass(frozen=True)
class FinishSettings(TrainingRun):
    """The settings of `nas finish`."""

    run: Annotated[
        Path | str | None,
        Setting(
            "Run folder of `nas search`, or of `nas train`; none with `arch` alone.",
            "Arguments",
            kind="argument",
            metavar="RUN",
        ),
    ] = None
    data: Annotated[
        str | None,
        Setting(
            "Images to train on: digits, glyphs, a folder of images, or a dataset of timm.",
            TRAINED,
            "those of the run",
        ),
    ] = None
    _: KW_ONLY
    pick: Annotated[
        str | None,
        Setting(
            "Network of a search's front: knee, best, fastest, settled, or a number from the front's table.",
            TRAINED,
            "what the search exported, else knee",
        ),
    ] = None
    arch: Annotated[
        str | None,
        Setting("Network to finish, where the run is a supernet or missing: `space/name`, JSON, or RUN:knee.", TRAINED),
    ] = None
    start: Annotated[
        str | None,
        Setting("Weights to begin with: inherited or scratch.", TRAINED, "inherited where there are any", "from"),
    ] = None
    teacher: Annotated[
        str | None,
        Setting(
            "Teacher: original (the model that a search began with), largest (network of the supernet), networks of"
            " timm with commas, or none.",
            TRAINING,
            "original where it is kept, else largest where there is a supernet, else none",
        ),
    ] = None
    quantise: Annotated[
        str | None,
        Setting(
            "What the network is to compute in: int8, w4 or w2 (weights of 4 or 2 bits), or mixed (what `nas quantise`"
            " chose). It is trained for that where it loses more than `tolerance`.",
            TRAINING,
            "fp32",
        ),
    ] = None
    tolerance: Annotated[
        float,
        Setting("Points of accuracy on the search part that `quantise` may cost untrained.", TRAINING, least=0),
    ] = TOLERANCE
    seed: Annotated[int, Setting("Seed of images and, from scratch, of weights.", TRAINING, least=0)] = 0

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any], given: Given | None = None) -> FinishSettings:
        """The settings that a run folder keeps, with those that it does not keep as they are given."""
        return cls(**{**read_recorded(cls, recorded), **(given or {})})
