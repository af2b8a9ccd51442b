"""`nas scale`."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

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


@handles_errors
@takes_settings(ScaleSettings)
def scale(given: Given, *, json: Json = False, quiet: Quiet = False) -> None:
    """Grow a network into a family of larger ones, without training."""
    if "network" not in given and "resume" not in given:
        raise typer.BadParameter("`--from NETWORK` is missing, for example `--from asvit/seed`")
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
