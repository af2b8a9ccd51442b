"""`nas adapt`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json, Quiet, in_range
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_duration


@handles_errors
def adapt(
    model: Annotated[str, typer.Argument(help="Model of timm, for example vit_small_patch14_dinov2.")],
    data: Annotated[Path, typer.Option(help="Folder with pictures, without labels, however they are laid out.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the weights to.")],
    weights: Annotated[
        str, typer.Option(help="Weights to begin with: `pretrained` for timm's, or a file or folder.")
    ] = "pretrained",
    epochs: Annotated[int, typer.Option(min=1, callback=in_range, help="Passes over the pictures.")] = 10,
    batch_size: Annotated[int, typer.Option(min=2, callback=in_range, help="Pictures in a step.")] = 64,
    rank: Annotated[
        int, typer.Option(min=1, callback=in_range, help="Rank of the change of query and value rows.")
    ] = 64,
    seed: Annotated[int, typer.Option(min=0, callback=in_range, help="Seed of crops and weights.")] = 0,
    device: Annotated[
        str | None, typer.Option(help="Device of PyTorch's. Default: a GPU where there is one, else the CPU.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Adapt a pretrained model to pictures of another kind, without labels, before anything is searched inside it."""
    from nas.training.adapt import AdaptSettings, adapt_model

    settings = AdaptSettings(model, data, output, weights, epochs, batch_size, rank, seed, device)
    with ProgressPrinter(quiet) as progress:
        found = adapt_model(settings, progress)
    if json:
        display.print_json({**found, "folder": str(output)})
        return
    rows = [
        ["pictures", f"{found['pictures']:,}"],
        ["steps", f"{found['steps']:,}"],
        ["trained", f"{found['trained']:,} of {found['params']:,} parameters"],
        ["loss, first and last tenth", f"{found['loss_first']:.3f}, {found['loss_last']:.3f}"],
        ["took", format_duration(found["seconds"])],
    ]
    display.print_table(["", ""], rows, left=2)
    display.say(f"written to {display.short(output)}")
    display.say(f"next: nas profile {shlex.quote(model)} --weights {display.quoted(output)} --data FOLDER")
