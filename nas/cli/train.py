"""`nas train`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.from_settings import takes_settings
from nas.cli.options import Json, Quiet
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_duration
from nas.runs.settings import Given
from nas.training.settings import TRAINING, TrainSettings


@handles_errors
@takes_settings(TrainSettings)
def train(
    given: Given,
    *,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images per step, over all processes.", rich_help_panel=TRAINING)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Number format: fp32, bf16 or fp16. Default: fp32.", rich_help_panel=TRAINING),
    ] = None,
    teachers: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Networks of timm to learn from, with commas, or none.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the supernet of a search space, or one network, on images.

    To train with several processes on one machine: `torchrun --nproc-per-node 2 -m nas train ...`
    """
    import nas

    named = {"batch_size": batch_size, "precision": precision, "teachers": teachers}
    options = {**given.pop("options", {}), **{name: value for name, value in named.items() if value is not None}}
    is_main_process = os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ
    with ProgressPrinter(quiet or not is_main_process) as progress:
        result = nas.train(**given, options=options, progress=progress)
    if not is_main_process:
        return
    if json:
        display.print_json(result.to_dict())
        return
    rows = [[name, f"{accuracy:.2%}"] for name, accuracy in result.accuracy.items()]
    is_accuracy = result.figure == "accuracy"
    rows.append(["always the commonest class" if is_accuracy else "guessing", f"{result.commonest_accuracy:.2%}"])
    display.print_table(["network", f"{result.figure.replace('_', ' ')} on the search part"], rows)
    display.say(f"{result.steps} steps, {result.epochs:.3g} epochs, {format_duration(result.seconds)}")
    display.say(f"written to {display.short(result.run)}")
    written = display.quoted(result.run)
    is_single = result.architecture is not None
    display.say(f"next: nas export {written}" if is_single else f"next: nas search --supernet {written} --target local")
