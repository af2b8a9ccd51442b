"""`nas train`."""

from __future__ import annotations

import os
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
            help="Which networks a step trains: `uniform`, `sandwich`, `complexity-aware`, `conflict-aware` or"
            " `multi-architecture`. Unless given, `uniform` with a `--budget` and `sandwich` without."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Published settings: `elasticvit`, `resnas` or `resnas-finetune`. Whatever else is given comes first."
        ),
    ] = None,
    image_size: ImageSize = None,
    epochs: Epochs = None,
    budget: TrainingTime = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, over all processes.")] = None,
    precision: Annotated[str | None, typer.Option(help="`fp32` (unless given), `bf16` or `fp16`.")] = None,
    teachers: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Networks of timm to learn from, with commas; `none` for none.")
    ] = None,
    option: TrainingSetting = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, networks and images.")] = None,
    validate: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Subnets to judge after every epoch, for example smallest,largest."),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events too.")] = False,
    launcher: Annotated[str | None, typer.Option(help="`ray` starts `--workers` processes on a cluster.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that `--launcher` starts.")] = None,
    ray_address: Annotated[str | None, typer.Option(help="Of the cluster; one on this machine unless given.")] = None,
    device: TrainingDevice = None,
    run: Output = None,
    resume: Resume = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the supernet of a search space, or one network, on images.

    To train with several processes on one machine: `torchrun --nproc-per-node 2 -m nas train ...`
    """
    folder = run_folder(run, resume)
    import nas
    from nas.training.options import parse_options

    named = {"batch_size": batch_size, "precision": precision, "teachers": teachers}
    options = {**parse_options(option or []), **{name: value for name, value in named.items() if value is not None}}
    is_first = os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ
    with ProgressPrinter(quiet or not is_first) as progress:
        result = nas.train(
            space,
            data,
            arch=arch,
            progressive=progressive,
            policy=policy,
            recipe=recipe,
            image_size=image_size,
            options=options,
            epochs=epochs,
            budget_seconds=budget,
            seed=seed,
            validate=None if validate is None else [name.strip() for name in validate.split(",")],
            tensorboard=tensorboard,
            launcher=launcher,  # type: ignore[arg-type]  # another one is refused in words
            workers=workers,
            ray_address=ray_address,
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
    rows = [[name, f"{accuracy:.2%}"] for name, accuracy in result.accuracy.items()]
    display.print_table(["network", "accuracy on the search part"], rows)
    display.say(f"{result.steps} steps, {result.epochs:.3g} epochs, {format_duration(result.seconds)}")
    display.say(f"written to {display.short(result.run)}")
    written = display.short(result.run)
    is_single = result.architecture is not None
    display.say(f"next: nas export {written}" if is_single else f"next: nas search --supernet {written} --target local")
