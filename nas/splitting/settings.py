"""The settings of `nas split`, each typed once: see `nas.runs.settings` for what is made from them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated

from nas.runs.settings import Receiver, Setting

DEVICES, TRAINING, OUTPUT = "Devices", "Training", "Output"


@dataclass(frozen=True)
class SplitSettings:
    """The settings of `nas split`."""

    run: Annotated[
        Path | str,
        Setting("Run folder of `nas search` with `--model` and `--data`.", "Arguments", kind="argument", metavar="RUN"),
    ]
    devices: Annotated[
        str, Setting("Devices and their memories: pixel6:1GB,raspberrypi4:512MB.", DEVICES, metavar="NAME:MEMORY,...")
    ]
    link: Annotated[str, Setting("What sending takes: 1MB/s,2ms.", DEVICES, metavar="SPEED,DELAY")]
    _: KW_ONLY
    limit: Annotated[
        str,
        Setting(
            "Most that an answer may take: 12ms, or 50% of what the whole model takes on the fastest device.",
            DEVICES,
            metavar="TIME",
        ),
    ] = "50%"
    epochs: Annotated[
        int,
        Setting(
            "Passes over the images that all networks learn together in; 0 trains the fusion alone.", TRAINING, least=0
        ),
    ] = 5
    data: Annotated[str | None, Setting("Images of the run, where they have moved.", TRAINING, "where they lay")] = None
    output: Annotated[Path | str | None, Setting("Folder to write.", OUTPUT, "`split` in the run folder")] = None
    progress: Receiver = None
