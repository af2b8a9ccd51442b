"""`nas watch`: the front of a search that goes on, from its folder."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors

if TYPE_CHECKING:
    from nas.result import SearchResult

LEAST_PAUSE = 0.2


@handles_errors
def watch(
    run: Annotated[Path, typer.Argument(help="Run folder of `nas search`.")],
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=LEAST_PAUSE)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
) -> None:
    """Show the front of a search that another process runs, until it ends; Ctrl-C stops looking, not the search."""
    from nas.runs.front import FRONT_FILE
    from nas.searching.so_far import search_so_far

    shown = None
    while True:
        found, has_ended = search_so_far(run), (run / FRONT_FILE).exists()
        state = (0 if found is None else found.evaluated, has_ended)
        if state != shown:
            shown = state
            _show(run, found, has_ended)
        if once or has_ended:
            return
        try:
            time.sleep(every)
        except KeyboardInterrupt:
            return


def _show(run: Path, found: SearchResult | None, has_ended: bool) -> None:
    from nas.cli.front_table import show_fronts

    if sys.stdout.isatty():
        display.output().clear()
    if found is None:
        display.say(f"{display.short(run)}: no network has been judged yet")
        return
    show_fronts(found)
    ended = "ended" if has_ended else "goes on, or was stopped"
    display.say(f"{display.short(run)}: {found.evaluated} judged, {len(found.front)} on the front; the search {ended}")
