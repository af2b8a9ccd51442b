"""Options that several commands share, so that they are called and explained alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

OUTPUT = "Output"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

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
