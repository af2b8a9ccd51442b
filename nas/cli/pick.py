"""`nas pick`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Build, Json, in_range, parse_limits
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_count

if TYPE_CHECKING:
    from nas.picking.pick import Pick

MEMBERS = 24
"""Rows of the front that are shown."""


@handles_errors
def pick(
    target: Annotated[str, typer.Option(help="Device whose latency counts, see `nas targets`.")] = "pixel6",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Hard limit: 12ms on the predicted latency on the target (its upper end), `local=3ms` on another"
            " device's, `params=10M` or `peak-memory=64MB` on any quantity. Repeatable.",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, callback=in_range, help="Side in pixels that images must have. Default: any."),
    ] = None,
    licence: Annotated[
        list[str] | None,
        typer.Option(
            "--licence", "--license", help="Licence that weights may have, for example apache-2.0. Repeatable."
        ),
    ] = None,
    build: Build = False,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Page to write: the front with names, as one HTML file.")
    ] = None,
    json: Json = False,
) -> None:
    """Choose a trained model of timm: published accuracy against predicted latency. Nothing is trained or downloaded.

    Accuracy is that on ImageNet-1k, as timm's author has published it, and latency is predicted for images of the same
    size. Of every model on the front there is none that is both faster and more accurate.
    """
    limit_ms, limits = parse_limits(limit or [])
    from nas.picking.page import write_page
    from nas.picking.pick import pick as picked

    if build:
        _build(target)
    found = picked(target, limit_ms, limits, image_size, licence or ())
    if report is not None:
        write_page(found, report)
    if json:
        display.print_json(found.to_dict())
    else:
        _show(found)
    if report is not None:
        display.say(f"written to {display.short(report)}")


def _build(target: str) -> None:
    from nas.latency.build import ensure_groups
    from nas.latency.evidence import require_buildable
    from nas.latency.sample import BROAD

    require_buildable(target)
    with ProgressPrinter() as progress:
        ensure_groups([BROAD], progress)


def _show(found: Pick) -> None:
    from nas.picking.words import loading, next_commands
    from nas.searching.extra_scores import spread

    chosen = found.front.index(found.recommended)
    shown = [found.front[place] for place in sorted({*spread(len(found.front), MEMBERS), chosen})]
    rows = [
        [
            member.model.name + (f" <- {found.reason}" if member is found.recommended else ""),
            f"{member.model.accuracy:.2%}",
            display.latency_text(vars(member.latency)),
            str(member.model.image_side),
            format_count(member.params),
            format_count(member.macs),
            member.model.licence,
        ]
        for member in shown
    ]
    columns = ["model of timm", "accuracy", f"latency {found.target}", "px", "params", "MACs", "licence"]
    display.print_table(columns, rows, whole=1)
    fitting = f"{len(found.models):,} of them within the limits, " if found.limits else ""
    left_out = f", of which {len(shown)} are shown" if len(shown) < len(found.front) else ""
    display.say(f"{found.considered:,} trained models, {fitting}{len(found.front)} on the front{left_out}")
    for source in found.sources:
        display.say(source)
    if any(member.latency.extrapolated for member in shown):
        display.say(display.RANGES)
    for warning in found.warnings:
        display.say(f"note: {warning}")
    display.say(f"load: {loading(found)}")
    for number, command in enumerate(next_commands(found)):
        display.say(f"{'next: ' if number == 0 else '      '}{command}")
