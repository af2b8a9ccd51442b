"""`nas scale`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import INTERRUPTED, handles_errors
from nas.cli.from_settings import takes_settings
from nas.cli.options import Json, Quiet
from nas.cli.progress import ProgressPrinter
from nas.growth.settings import ScaleSettings
from nas.runs.settings import Given

if TYPE_CHECKING:
    from nas.result import SearchResult
    from search_spaces import Architecture


Along = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="Direction: size, or scales for a run with one trained network, which then sees larger images in tiles."
        " Default: size.",
    ),
]
Data = Annotated[str | None, typer.Option(help="Images of the run, where they have moved. Default: where they lay.")]
OF_A_GROWTH = ("ties", "repeats", "seed", "resume", "force")
"""Settings that scales of the input have no use for."""


@handles_errors
@takes_settings(ScaleSettings)
def scale(given: Given, *, along: Along = None, data: Data = None, json: Json = False, quiet: Quiet = False) -> None:
    """Grow a network into a family of larger ones, without training; or a trained one along the scales of its input."""
    if "network" not in given and "resume" not in given:
        raise typer.BadParameter("`--from NETWORK` is missing, for example `--from asvit/seed`")
    if along not in (None, "size", "scales"):
        raise typer.BadParameter(f"`--along {along}`, expected size or scales")
    if along == "scales":
        _scale_inputs(given, data, json, quiet)
        return
    if data is not None:
        raise typer.BadParameter("`--data` without `--along scales`: growth needs no images")
    import nas

    given.setdefault("workers", available_processors())
    with ProgressPrinter(quiet) as progress:
        result = nas.scale(**given, progress=progress)
    if json:
        display.print_json(result.document)
    else:
        _show(result)
    if result.is_interrupted:
        display.say(f"interrupted; go on with: nas scale --resume {display.quoted(result.run)}")
        raise typer.Exit(INTERRUPTED)


def _scale_inputs(given: Given, data: str | None, json: bool, quiet: bool) -> None:
    for name in OF_A_GROWTH:
        if name in given:
            raise typer.BadParameter(f"`--{name}` beside `--along scales`, expected one of them")
    import nas

    asked = {name: given[name] for name in ("up_to", "target", "output") if name in given}
    with ProgressPrinter(quiet) as progress:
        found = nas.scale_inputs(given["network"], **asked, data=data, progress=progress)
    if json:
        display.print_json({**found.record, "folder": str(found.folder)})
        return
    show_scales(found.record)
    display.say(found.record["source"])
    display.say(f"written to {display.short(found.folder)}")


def show_scales(record: Mapping[str, Any]) -> None:
    """What a network costs and is worth at each set of scales, and what was written."""
    within = [entry for entry in record["scales"] if entry["is_within"]]
    rows = [
        [
            "-".join(map(str, entry["scales"])) + (" (best)" if entry is within[record["chosen"]] else ""),
            f"{entry['side']}",
            *display.size_text(entry["params"], entry["macs"]),
            f"{entry['peak_bytes'] / 1e6:.3g} MB",
            display.latency_text(entry["latency"]) if entry["latency"]["low_ms"] is not None else display.NO_EVIDENCE,
            f"{entry['search_accuracy']:.2%}" if entry["is_within"] else "over the limit",
        ]
        for entry in record["scales"]
    ]
    columns = ["scales", "px", "params", "MACs", "activations", f"latency {record['target']}", "on the search part"]
    display.print_table(columns, rows)
    if "test_accuracy" in record:
        display.say(f"{record['test_accuracy']:.2%} of {record['test_images']} test images in ONNX Runtime")


def available_processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _show(result: SearchResult) -> None:
    rows = []
    for position, (entry, member) in enumerate(zip(result.document["front"], result.front, strict=True)):
        rows.append(
            [
                f"{position}",
                network_text(member.architecture),
                *display.size_text(member.params, member.macs),
                display.latency_text(entry["latency"][result.target]),
                f"{member.scores['ntk_condition']:.3g}",
                f"{member.scores['length_distortion']:.3g}",
                f"{entry['candidates']}",
            ]
        )
    columns = ["", "network", "params", "MACs", f"latency {result.target}", "NTK condition", "length distortion", "of"]
    display.print_table(columns, rows, left=2)
    for source in result.document["sources"]:
        display.say(source)
    folder = display.short(result.run)
    display.say(f"written to {folder}")
    if rows:
        last = len(rows) - 1
        display.say(f"next: nas train --arch {shlex.quote(f'{folder}:{last}')} --data DATA")
        display.say(f"      nas export {shlex.quote(folder)} --pick {last}")


def network_text(architecture: Architecture) -> str:
    """An As-ViT network as its topology, any other in one short line."""
    from search_spaces import get_space
    from search_spaces.asvit import AsvitSpace

    space = get_space(architecture.space)
    return str(space.topology(architecture)) if isinstance(space, AsvitSpace) else display.describe(architecture)
