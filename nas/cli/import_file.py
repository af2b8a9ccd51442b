"""`nas import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Force, Json


@handles_errors
def import_file(
    file: Annotated[Path, typer.Argument(help="File of weights, as its authors give it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder to write. Default: a new one.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Space of the networks, where nothing in the file tells.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Network to take out alone. Default: the whole supernet is kept.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Bring in a supernet that others trained and published, such as AutoFormer's."""
    import nas

    result = nas.import_supernet(file, output, space=space, arch=arch, force=force)
    if json:
        display.print_json(result.to_dict())
        return
    origin = result.origin
    what = f"network of `{result.space}`" if result.architecture else f"supernet of space `{result.space}`"
    display.print_table(
        ["", "found in the file"],
        [
            ["what", f"{what}, {result.numbers:,} numbers, {result.classes} classes"],
            ["whose", f"{origin['title']}, arXiv {origin['paper']}"],
            ["licence", origin["license"]],
            ["authors' page", origin["page"]],
            *(
                [f"published, `{result.space}/{name}`", f"{accuracy:g} % top-1 on ImageNet"]
                for name, accuracy in origin["accuracies"].items()
            ),
            ["SHA-256 of the file", origin["sha256"]],
        ],
        left=2,
    )
    for note in result.notes:
        display.say(f"note: {note}")
    display.say(f"written to {display.short(result.run)}")
    written = display.quoted(result.run)
    if result.architecture is not None:
        display.say(f"next: nas export {written}, or nas finish {written} --data YOUR-IMAGES")
        return
    images = "IMAGENET-VAL" if result.classes == 1000 else "IMAGES"
    display.say(f"next: nas search --supernet {written} --data {images} --target local")
