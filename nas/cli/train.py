"""`nas train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors, run_folder
from nas.cli.progress import ProgressPrinter
from nas.cli.units import format_duration, parse_duration


@handles_errors
def train(
    space: Annotated[str | None, typer.Option(help="Search space, see `nas spaces`.")] = None,
    data: Annotated[str | None, typer.Option(help="`digits`, a folder of images, or a dataset of timm.")] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="Train this network alone: `space/name`, the space's text form, a JSON file, or RUN:knee."),
    ] = None,
    progressive: Annotated[
        bool, typer.Option("--progressive", help="Begin on large patches, for spaces with a patch embedding.")
    ] = False,
    policy: Annotated[
        str | None,
        typer.Option(
            help="Which networks a step trains: `sandwich` (unless given), `uniform`, `complexity-aware` or"
            " `conflict-aware`."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")] = None,
    budget: Annotated[
        float | None, typer.Option(parser=parse_duration, metavar="TIME", help="Time to train, for example 30m.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, networks and images.")] = None,
    device: Annotated[str | None, typer.Option(help="For example cuda; the first GPU if there is one.")] = None,
    run: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Throw away what the run folder holds.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train the supernet of a search space, or one network, on images."""
    folder = run_folder(run, resume)
    import nas

    with ProgressPrinter(quiet) as progress:
        result = nas.train(
            space,
            data,
            arch=arch,
            progressive=progressive,
            policy=policy,
            epochs=epochs,
            budget_seconds=budget,
            seed=seed,
            output=folder,
            resume=resume is not None,
            force=force,
            device=device,
            progress=progress,
        )
    if json:
        display.print_json(result.to_dict())
        return
    rows = [[name, f"{accuracy:.2%}"] for name, accuracy in result.accuracy.items()]
    display.print_table(["network", "accuracy on the search part"], rows)
    display.say(f"{result.steps} steps, {result.epochs:.3g} epochs, {format_duration(result.seconds)}")
    display.say(f"written to {display.short(result.run)}")
    written = display.short(result.run)
    is_single = result.architecture is not None
    display.say(f"next: nas export {written}" if is_single else f"next: nas search --supernet {written} --target local")
