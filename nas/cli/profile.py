"""`nas profile`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import FAILED, INFEASIBLE, handles_errors
from nas.cli.options import Build, Json, parse_limits
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_count, format_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from latency_tables import Latency
    from nas.networks.profile import ModelProfile
    from nas.training.adaptation import Worth

VERDICTS = {True: "yes", False: "no", None: "unknown"}


@handles_errors
def profile(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A vision transformer of timm: NAME, or NAME?argument=value.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The same, as `nas search` takes it.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights to judge on `--data`: a file, a folder, or pretrained (from timm).")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Images to judge the weights on: accuracy of nearest neighbours and of a fitted classifier."),
    ] = None,
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
    build: Build = False,
    classes: Annotated[int | None, typer.Option(min=2, help="Classes to tell apart. Default: the model's own.")] = None,
    json: Json = False,
) -> None:
    """Show what could be searched inside a timm model: sizes, latency, and whether a limit can be met.

    With `--data` also what its weights are worth on these images before anything is trained.
    """
    limit_ms, limits = parse_limits(limit or [])
    from nas.errors import UsageError
    from nas.networks.profile import profile_model

    if (name is None) == (model is None):
        found_names = "none" if name is None else f"`{name}` and `{model}`"
        raise UsageError(f"found {found_names}, expected one model", hint="give its name, or `--model NAME`")
    if weights is not None and data is None:
        raise UsageError("weights without images to judge them on", hint="add `--data`, or leave `--weights` out")
    chosen = name or model or ""
    if build:
        _build(chosen, classes, [*(target or ()), *limits])
    found = profile_model(chosen, target or (), limit_ms, limits, classes)
    worth = None if data is None else _worth(chosen, weights, data)
    if json:
        display.print_json({**found.to_dict(), "worth": None if worth is None else asdict(worth)})
    else:
        _show(found)
        if worth is not None:
            _show_worth(worth)
    if False in found.can_be_met.values():
        raise typer.Exit(INFEASIBLE)
    if None in found.can_be_met.values():
        raise typer.Exit(FAILED)


def _build(model: str, classes: int | None, targets: Sequence[str]) -> None:
    from latency_tables.targets import LOCAL
    from nas.latency.build import ensure_target
    from nas.latency.evidence import require_buildable
    from search_spaces import get_space

    chosen = list(dict.fromkeys(targets)) or [LOCAL]
    for target in chosen:
        require_buildable(target)
    with ProgressPrinter() as progress:
        for target in chosen:
            ensure_target(target, get_space(f"timm:{model.removeprefix('timm:')}", classes), progress)


def _worth(model: str, weights: str | None, data: str) -> Worth:
    from nas.training.adaptation import worth_of
    from nas.training.pretrained import PRETRAINED

    with ProgressPrinter() as progress:
        return worth_of(model, weights or PRETRAINED, data, progress)


def _show_worth(worth: Worth) -> None:
    neighbours = "a class has one image" if worth.neighbours is None else f"{worth.neighbours:.2%}"
    rows = [
        *([["20 nearest neighbours", neighbours]] if worth.figure == "accuracy" else []),
        *([f"{count} nearest, weighted as in DINO", f"{share:.2%}"] for count, share in worth.weighted.items()),
        ["classifier fitted to the features", f"{worth.probe:.2%}"],
        *(
            [f"of which `{name}`", "not there" if share is None else f"{share:.2%}"]
            for name, share in worth.by_class.items()
        ),
    ]
    title = f"worth on {worth.judged} images that nothing learned from, {worth.images} to learn from"
    display.print_table(["frozen features", worth.figure.replace("_", " ")], rows, title=title)
    display.say(f"{format_duration(worth.seconds)} for features and fits")


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
            verdicts = [VERDICTS[network.latency[target].is_within(limit)] for network in networks]
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
        display.say(f"{limit:g} ms on {target} {_verdict(networks[0].latency[target], limit)}")
    for source in found.sources:
        display.say(source)
    _say_evidence(found)


def _verdict(smallest: Latency, limit: float) -> str:
    if smallest.is_declined:
        return "may be met or not: the table has no evidence for the smallest network"
    if smallest.high_ms <= limit:
        return "can be met"
    if smallest.low_ms <= limit:
        return "cannot be promised: the range of the smallest network ends above it"
    return "cannot be met, not even by the smallest network"


def _say_evidence(found: ModelProfile) -> None:
    from latency_tables import load_target
    from nas.latency.evidence import known_networks, remedy

    unknown = {
        name: latency for network in found.networks for name, latency in network.latency.items() if latency.extrapolated
    }
    for target, latency in unknown.items():
        if latency.is_declined:
            table = load_target(target)
            display.say(f"{display.NO_EVIDENCE}: `{target}` was made from {known_networks(table)}")
            display.say(f"next: {remedy(table, [found.group], found.networks[-1].macs)}")
    if not all(latency.is_declined for latency in unknown.values()):
        display.say(display.RANGES)
