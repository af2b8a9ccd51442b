"""`nas profile`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import INFEASIBLE, handles_errors
from nas.cli.options import Json, parse_limits
from nas.objectives.units import format_count

if TYPE_CHECKING:
    from nas.networks.profile import ModelProfile


@handles_errors
def profile(
    model: Annotated[str, typer.Argument(help="A vision transformer of timm: NAME, or NAME?argument=value.")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="Device whose latency to show, see `nas targets`; `all` for every one. Repeatable."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIME", help="Limit on the latency to judge: 12ms on the first target, `local=3ms` on another."
        ),
    ] = None,
    classes: Annotated[int | None, typer.Option(min=2, help="Classes to tell apart. Default: the model's own.")] = None,
    json: Json = False,
) -> None:
    """Show what could be searched inside a timm model: sizes, latency, and whether a limit can be met."""
    limit_ms, limits = parse_limits(limit or [])
    from nas.networks.profile import profile_model

    found = profile_model(model, target or (), limit_ms, limits, classes)
    if json:
        display.print_json(found.to_dict())
    else:
        _show(found)
    if not all(found.can_be_met.values()):
        raise typer.Exit(INFEASIBLE)


def _show(found: ModelProfile) -> None:
    networks = found.networks
    rows = [
        ["parameters", *(format_count(network.params) for network in networks)],
        ["MACs", *(format_count(network.macs) for network in networks)],
    ]
    for target in networks[0].latency:
        cells = [display.latency_text(vars(network.latency[target])) for network in networks]
        rows.append([f"latency {target}", *cells])
        if target in found.limits:
            limit = found.limits[target]
            verdicts = ["yes" if network.latency[target].high_ms <= limit else "no" for network in networks]
            rows.append([f"within {limit:g} ms", *verdicts])
    size = format_count(found.encodings) if found.encodings < 1e9 else f"{found.encodings:.1e}"
    title = f"{found.model} ({found.family}): up to {size} networks"
    display.print_table(["", *(network.name for network in networks)], rows, title=title)
    axes = [
        [axis.name, f"{axis.places} choices" if axis.places > 1 else "1 choice", ", ".join(map(str, axis.values))]
        for axis in found.axes
    ]
    display.print_table(["searched", "", "values"], axes, left=3)
    if found.fixed:
        display.print_table(["not searched, and why"], [[reason] for reason in found.fixed])
    for target, limit in found.limits.items():
        verdict = "can be met" if found.can_be_met[target] else "cannot be met, not even by the smallest network"
        display.say(f"{limit:g} ms on {target} {verdict}")
    for source in found.sources:
        display.say(source)
    if any(latency.extrapolated for network in networks for latency in network.latency.values()):
        display.say("* extrapolated: the table has no direct evidence for some of this network's kernels")
