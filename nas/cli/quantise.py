"""`nas quantise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json, Quiet, parser_of
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import LATENCY, SIZE


@handles_errors
def quantise(
    run: Annotated[Path, typer.Argument(help="Run folder of `nas search`, `nas finish` or `nas train --arch`.")],
    pick: Annotated[
        str | None, typer.Option(help="Network of the front, as in `nas export`. Default: what that takes.")
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(parser=parser_of(LATENCY), metavar="TIME", help="Most that it may take on this machine: `2ms`."),
    ] = None,
    size: Annotated[
        float | None,
        typer.Option(parser=parser_of(SIZE), metavar="SIZE", help="Most that its file may have: `1.5MB`."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images of the run, where they have moved. Default: where they lay.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose bits for each layer of a network: a front of ONNX files, written, measured and judged."""
    from nas.exporting.quantise import quantise_run

    with ProgressPrinter(quiet) as progress:
        found = quantise_run(run, pick, limit, size, data, progress)
    if json:
        display.print_json({"schema": 1, "folder": str(found.folder), **found.to_dict()})
        return
    rows = [
        [
            f"{member.file}{' (ships)' if place == found.chosen else ''}",
            " + ".join(f"{count} {precision}" for precision, count in member.counts.items()),
            f"{member.accuracy:.2%} [{member.low:.1%}, {member.high:.1%}]",
            f"{member.kl:.1e}",
            f"{member.ms:.3g} ms",
            f"{member.ratio:.2f}",
            f"{member.bytes / 1e6:.2f} MB",
        ]
        for place, member in enumerate(found.members)
    ]
    columns = ["file", "layers", "accuracy, search part", "KL", "latency here", "of fp32", "size"]
    display.print_table(columns, rows, left=2)
    test = found.facts["test"]
    texts = [f"{what} {each['accuracy']:.2%} [{each['low']:.1%}, {each['high']:.1%}]" for what, each in test.items()]
    display.say(f"test part, {test['fp32']['images']} images: {', '.join(texts)}")
    for name, reason in found.facts["left_in_fp32"].items():
        display.say(f"`{name}` stays in fp32: {reason}")
    for note in found.facts["notes"]:
        display.say(f"note: {note}")
    display.say(f"written to {display.short(found.folder)}")
