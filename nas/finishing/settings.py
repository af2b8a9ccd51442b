"""The settings of `nas finish`, each typed once: see `nas.runs.settings` for what is made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from nas.objectives.units import LATENCY, SHARE
from nas.runs.settings import Given, Setting, read_recorded
from nas.training.settings import TRAINED, TRAINING, TrainingRun

TOLERANCE = 0.3
"""Points of accuracy that fewer bits may cost."""
EXITS = "Early exits"


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
    relu: Annotated[
        bool,
        Setting(
            "Whether ReLU takes the place of GELU beside `quantise`, which is faster: layers around it are fitted to"
            " what they gave. For models of timm that can be made with either.",
            TRAINING,
        ),
    ] = False
    soup: Annotated[
        list[str],
        Setting(
            "Finished runs of the same network, with commas, whose weights may be averaged with these.",
            TRAINING,
            "none",
            metavar="RUNS",
        ),
    ] = field(default_factory=list)
    exits: Annotated[
        int | None,
        Setting(
            "Early exits that the finished network gets at most, 1 to 3: sure images leave by them.",
            EXITS,
            "none",
            least=1,
        ),
    ] = None
    limit_ms: Annotated[
        float | None,
        Setting(
            "Limit on the upper end of the latency of a network with exits in the worst case, for example 12ms.",
            EXITS,
            "none",
            option="limit",
            measure=LATENCY,
        ),
    ] = None
    expected_limit_ms: Annotated[
        float | None,
        Setting(
            "Limit on the upper end of its mean latency, for example 8ms.",
            EXITS,
            "none",
            option="expected-limit",
            measure=LATENCY,
        ),
    ] = None
    exit_risk: Annotated[
        float,
        Setting(
            "Share of images that an exit may be wrong on and the network right, at 95 % confidence.",
            EXITS,
            measure=SHARE,
        ),
    ] = 0.01
    target: Annotated[
        str | None,
        Setting("Device that exits are chosen for, see `nas targets`.", EXITS, "that of the search, else pixel6"),
    ] = None
    seed: Annotated[int, Setting("Seed of images and, from scratch, of weights.", TRAINING, least=0)] = 0

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any], given: Given | None = None) -> FinishSettings:
        """The settings that a run folder keeps, with those that it does not keep as they are given."""
        return cls(**{**read_recorded(cls, recorded), **(given or {})})
