"""`nas finish`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors, run_folder
from nas.cli.options import (
    Epochs,
    Force,
    ImageSize,
    Json,
    Output,
    Quiet,
    Resume,
    TrainingDevice,
    TrainingSetting,
    TrainingTime,
)
from nas.cli.progress import ProgressPrinter
from nas.cli.units import format_duration


@handles_errors
def finish(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder of `nas search`, or of `nas train`; none with `--arch` alone.")
    ] = None,
    pick: Annotated[
        str | None, typer.Option(help="Of a search: knee, best, fastest, or a number from the front's table.")
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="The network, where RUN is a supernet or missing: `space/name`, JSON, RUN:knee.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="`digits`, a folder of images, or a dataset of timm; those of RUN unless given.")
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="`inherited` weights, unless there are none, or `scratch`.")
    ] = None,
    epochs: Epochs = None,
    budget: TrainingTime = None,
    image_size: ImageSize = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="`largest` of the supernet, `original` model, networks of timm with commas, or `none`."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Published settings: `resnas-finetune`, `resnas` or `elasticvit`.")
    ] = None,
    option: TrainingSetting = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of images and, from scratch, weights.")] = None,
    device: TrainingDevice = None,
    output: Output = None,
    resume: Resume = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one network alone until it can be shipped, and export it.

    To train with several processes on one machine: `torchrun --nproc-per-node 2 -m nas finish ...`
    """
    folder = run_folder(output, resume)
    import nas
    from nas.training.options import parse_options

    is_first = os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ
    with ProgressPrinter(quiet or not is_first) as progress:
        result = nas.finish(
            run,
            data,
            pick=pick,
            arch=arch,
            start=start,  # type: ignore[arg-type]  # another one is refused in words
            epochs=epochs,
            budget_seconds=budget,
            image_size=image_size,
            teacher=teacher,
            recipe=recipe,
            options=parse_options(option or []),
            seed=seed,
            output=folder,
            resume=resume is not None,
            force=force,
            device=device,
            progress=progress,
        )
    if not is_first:
        return
    if json:
        display.print_json(result.to_dict())
        return
    names = {
        "inherited": "inherited weights",
        "teacher": "teacher",
        "trained": "after training",
        "averaged": f"averaged over {len(result.averaged)} of its checkpoints",
    }
    rows = [[text, f"{value:.2%}"] for name, text in names.items() if (value := result.accuracy.get(name)) is not None]
    display.print_table(["network", "accuracy on the search part"], rows)
    verified = result.verified
    display.say(
        f"exported to {display.short(result.run / verified['export'])}: {verified['test_accuracy']:.2%} of"
        f" {verified['test_images']} test images in ONNX Runtime, {verified['torch_test_accuracy']:.2%} in PyTorch"
    )
    display.say(f"{result.steps} steps, {result.epochs:.3g} epochs, {format_duration(result.seconds)}")
    display.say(f"written to {display.short(result.run)}")
