"""Options that several commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli.units import parse_duration

OUTPUT = "Output"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.", rich_help_panel=OUTPUT)]

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML file with settings, such as RUN/settings.toml of an earlier run. Options come before it.",
        rich_help_panel=OUTPUT,
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Run folder to write. Default: a new one.", rich_help_panel=OUTPUT)
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", metavar="RUN", help="Run folder of a run to go on with.", rich_help_panel=OUTPUT),
]
Force = Annotated[
    bool, typer.Option("--force", help="Throw away first what the run folder holds.", rich_help_panel=OUTPUT)
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")]

TrainingDevice = Annotated[str | None, typer.Option(help="For example cuda; the first GPU if there is one.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")]
TrainingTime = Annotated[
    float | None, typer.Option(parser=parse_duration, metavar="TIME", help="Time to train, for example 30m.")
]
ImageSize = Annotated[
    int | None, typer.Option(min=1, metavar="PIXELS", help="Side of the images; the space's own unless given.")
]
TrainingSetting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Another training setting, for example learning_rate=1e-4."),
]
