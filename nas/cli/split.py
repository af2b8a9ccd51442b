"""`nas split`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json, Quiet, in_range, parser_of
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import LATENCY, SHARE, format_count
from nas.splitting.settings import SplitSettings


@handles_errors
def split(
    run: Annotated[Path, typer.Argument(help="Run folder of `nas search` with `--model` and `--data`.")],
    devices: Annotated[
        str,
        typer.Option(metavar="NAME:MEMORY,...", help="Devices and their memories: `pixel6:1GB,raspberrypi4:512MB`."),
    ],
    link: Annotated[str, typer.Option(metavar="SPEED,DELAY", help="What sending takes: `1MB/s,2ms`.")],
    limit: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="Most that an answer may take: `12ms`, or `50%` of what the whole model takes on the fastest device.",
        ),
    ] = "50%",
    epochs: Annotated[
        int, typer.Option(min=0, callback=in_range, help="Passes over the images that all networks learn together in.")
    ] = 5,
    data: Annotated[
        str | None, typer.Option(help="Images of the run, where they have moved. Default: where they lay.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: `split` in the run folder.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Share one trained model between several devices, each with a network of its own and classes of its own."""
    is_share = limit.strip().endswith("%")
    value = parser_of(SHARE if is_share else LATENCY)(limit)
    limits = {"limit_share": value} if is_share else {"limit_ms": value}
    settings = SplitSettings(run, devices, link, epochs=epochs, data=data, output=output, **limits)
    from nas.splitting.split import split_run

    with ProgressPrinter(quiet) as progress:
        found = split_run(settings, progress)
    if json:
        display.print_json({**found.plan, "folder": str(found.folder)})
        return
    plan, whole_macs = found.plan, found.plan["whole"]["macs"]
    rows = [
        [
            entry["folder"],
            ", ".join(entry["classes"]),
            f"{format_count(entry['macs'])} ({entry['macs'] / whole_macs:.0%})",
            f"{entry['bytes'] / 1e6:.3g} MB",
            f"{entry['ms']:.3g} ms",
            f"{entry['send_ms']:.3g} ms",
        ]
        for entry in plan["devices"]
    ]
    display.print_table(["device", "its classes", "MACs, of the whole", "memory", "computes", "sends"], rows, left=2)
    accuracy, single = plan["accuracy"], plan["single"]
    display.say(
        f"together {plan['latency_ms']:.3g} ms (up to {plan['high_ms']:.3g}, limit {plan['limit_ms']:.3g}) with"
        f" {plan['fusion']['ms']:.2g} ms of fusion; {plan['shared_link_ms']:.3g} ms where all share one link"
    )
    display.say(
        f"test part, {accuracy['test_images']} images: split {accuracy['split']:.2%} in ONNX Runtime, whole model"
        f" {accuracy['whole']:.2%}, best single network {accuracy['single']:.2%} in {single['ms']:.3g} ms on"
        f" {single['target']}"
    )
    if accuracy["single"] >= accuracy["split"]:
        display.say("note: the single network is as good, and needs no link")
    display.say(f"written to {display.short(found.folder)}")
