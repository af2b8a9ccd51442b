"""`nas inspect`, `nas spaces`, `nas targets`, `nas env`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json, in_range
from nas.objectives.units import format_count

if TYPE_CHECKING:
    from latency_tables import TargetInfo


@handles_errors
def network(
    text: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="Network: a timm model, `space/name`, an architecture's JSON file, a run (RUN:knee), or ONNX.",
        ),
    ],
    graph: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Op graph to write instead: .dot, .graphml or .json.")
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1, callback=in_range, metavar="PIXELS", help="Side of the image, for timm models. Default: their own."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the operators of a network with their sizes, or write its op graph for programs that draw graphs."""
    from nas.networks.drawing import op_entries, shape_text, write_graph
    from nas.networks.resolve import resolve_network

    named = resolve_network(text, image_size)
    ops = named.graph()
    for note in named.notes:
        display.say(f"note: `{named.name}`: {note}")
    if graph is not None:
        write_graph(ops, graph)
        display.say(f"written to {display.short(graph)}")
        return
    entries = op_entries(ops)
    if json:
        facts = {"network": named.name, "input_shape": list(named.input_shape), "params": ops.params, "macs": ops.macs}
        display.print_json({"schema": 1, **facts, "ops": entries})
        return
    rows = [
        [
            entry["name"],
            f"{entry['kind']} {entry['function']}" if "function" in entry else entry["kind"],
            entry["shape"],
            format_count(entry["params"]) if entry["params"] else "",
            format_count(entry["macs"]) if entry["macs"] else "",
            f"{entry['share']:.1%}" if entry["macs"] else "",
        ]
        for entry in entries
    ]
    columns = ["operator", "kind", "output", "params", "MACs", "share of MACs"]
    display.print_table(columns, rows, title=named.name, left=3, whole=2)
    display.say(
        f"{len(entries)} operators on {shape_text(named.input_shape)}: {format_count(ops.params)} parameters,"
        f" {format_count(ops.macs)} MACs"
    )


@handles_errors
def spaces(json: Json = False) -> None:
    """List the search spaces."""
    from search_spaces import get_space, population_cost, space_names

    entries = []
    for name in space_names():
        space = get_space(name)
        smallest, largest = population_cost(space, space.encode([space.smallest, space.largest])).macs.tolist()
        entries.append(
            {
                "name": name,
                "description": space.description,
                "encodings": space.encodings,
                "smallest_macs": smallest,
                "largest_macs": largest,
                "named": sorted(space.named),
            }
        )
    if json:
        display.print_json({"schema": 1, "spaces": entries})
        return
    rows = [
        [
            str(entry["name"]),
            str(entry["description"]),
            ", ".join(entry["named"]) or "none",
            f"{entry['encodings']:.1e}",
            f"{format_count(entry['smallest_macs'])} to {format_count(entry['largest_macs'])}",
        ]
        for entry in entries
    ]
    display.print_table(["space", "what it is", "published networks", "encodings", "MACs"], rows, left=3)


_WIDE = 110
"""Columns of a terminal on which every target has a line of its own."""


@handles_errors
def targets(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="Part of a name, a device, a runtime or a precision.")
    ] = "",
    json: Json = False,
) -> None:
    """List the devices with latency tables, how wrong they tend to be, and for which networks to believe them."""
    from latency_tables import target_names
    from nas.errors import UsageError

    infos = [info for info in target_names() if text.casefold() in _searched(info)]
    if text and not infos:
        raise UsageError(
            f"targets: found none with `{text}`, expected part of a name, a device, a runtime or a precision"
        )
    if json:
        names = ("name", "alias_of", "kind", "description", "error")
        entries = [{**{name: getattr(info, name) for name in names}, "kinds": _kinds(info)} for info in infos]
        display.print_json({"schema": 1, "targets": entries})
        return
    shown = {info.alias_of: info for info in reversed(infos) if info.alias_of}  # the short name of every table
    rows = [_target_row(info) for info in infos if shown.get(info.name, shown.get(info.alias_of, info)) is info]
    if display.output().width >= _WIDE:
        display.print_table(["target", "kind", "runs on", "believe it for", "error", "MAC line"], rows, left=4, whole=2)
        return
    narrow = [[name, f"{kind}: {runs_on}", belief, error] for name, kind, runs_on, belief, error, _ in rows]
    display.print_table(["target", "runs on", "believe it for", "error"], narrow, left=3)


def _searched(info: TargetInfo) -> str:
    precision = "" if info.table is None else info.table.precision
    return f"{info.name} {info.alias_of} {info.description} {precision}".casefold()


def _kinds(info: TargetInfo) -> dict[str, dict[str, object]]:
    """The errors by kind of network, and whether the table may be believed for it."""
    from latency_tables.kinds import believed_kinds

    if info.table is None:
        return {}
    believed = believed_kinds(info.table)
    return {
        entry.kind: {**entry.model_dump(exclude={"kind"}), "believed": entry.kind in believed}
        for entry in info.table.validation.by_kind
    }


def _target_row(info: TargetInfo) -> list[str]:
    from latency_tables.kinds import describe_belief

    table = info.table
    if table is None:
        return [info.name, info.kind, f"{info.description}: {info.error}", "", "", ""]
    threads = "" if table.threads == 1 else f", {table.threads} threads"
    processor = table.device.processor.partition(" (")[0]
    return [
        info.name,
        info.kind,
        f"{processor}, {table.runtime.name} {table.precision}{threads}",
        describe_belief(table),
        f"{table.validation.mean_error:.1%}",
        f"{table.validation.mac_line_mean_error:.1%}",
    ]


@handles_errors
def environment(json: Json = False) -> None:
    """Show versions and devices, for a bug report."""
    from nas.runs.environment import describe_environment

    facts = {name: value for name, value in describe_environment(seed=0).items() if name != "seed"}
    if json:
        display.print_json({"schema": 1, **facts})
        return
    for name, value in facts.items():
        for key, item in value.items() if isinstance(value, dict) else [("", value)]:
            typer.echo(f"{name + ' ' + key if key else name}: {item}")
