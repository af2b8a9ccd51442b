"""`nas latency`: tables of what kernels cost on devices."""

from __future__ import annotations

from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import USAGE, handles_errors, show_error
from nas.cli.progress import ProgressPrinter

app = typer.Typer(help="Build and show latency tables.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
@handles_errors
def show(
    target: Annotated[str, typer.Argument(help="A target, see `nas targets`.")],
    json: Annotated[bool, typer.Option("--json", help="Print the table itself.")] = False,
) -> None:
    """Show where a target's numbers come from and how wrong they tend to be."""
    from latency_tables import load_target

    table = load_target(target)
    if json:
        display.print_json(table.model_dump(mode="json", by_alias=True))
        return
    provenance, validation = table.provenance, table.validation
    facts = [
        ["device", f"{table.device.name}, {table.device.processor}"],
        ["runtime", f"{table.runtime.name} {table.runtime.version}, {table.precision}, {table.threads} thread(s)"],
        ["kind", f"{provenance.kind}: {provenance.status}"],
        ["date", provenance.date],
        ["mean error", f"{validation.mean_error:.1%} on {len(validation.rows)} networks ({validation.how})"],
        ["RMSPE", f"{validation.rmspe:.1%}"],
        ["within 5 %, 10 %", f"{validation.within_5_percent:.0%}, {validation.within_10_percent:.0%}"],
        ["MAC line's mean error", f"{validation.mac_line_mean_error:.1%}"],
        [
            "interval",
            f"{table.interval.low:+.0%} to {table.interval.high:+.0%} ({table.interval.coverage:.0%} coverage)",
        ],
        ["kernels", f"{len(table.kernels)} stored, {len(table.rooflines)} classes priced by a roofline"],
        *(["note", note] for note in provenance.notes),
    ]
    display.print_table(["", table.name], facts, left=2)
    rows = [
        [
            row.network,
            f"{row.measured_ms:.3g}",
            f"{row.predicted_ms:.3g}",
            f"{row.predicted_ms / row.measured_ms - 1:+.1%}",
        ]
        for row in validation.rows
    ]
    display.print_table(["held-out network", "measured ms", "predicted ms", "error"], rows)
    sources = sorted({figure.source for figure in table.figures})
    for source in sources:
        display.say(f"source: {source}")


@app.command()
@handles_errors
def build(
    target: Annotated[str, typer.Option(help="Only `local`, this machine.")] = "local",
    spaces: Annotated[str, typer.Option(help="Search spaces to cover, with commas.")] = "elastic,elastic-mini",
    networks: Annotated[int, typer.Option(min=12, help="Networks to measure of each space.")] = 24,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Measure this machine through ONNX Runtime, on one thread."""
    if target != "local":
        show_error(f"target `{target}` cannot be built", "only `local`, this machine, can be measured so far")
        raise typer.Exit(USAGE)
    from nas.latency import build_local

    with ProgressPrinter(quiet) as progress:
        table = build_local([name.strip() for name in spaces.split(",")], networks=networks, progress=progress)
    from latency_tables import provenance_line
    from latency_tables.targets import user_table_path

    typer.echo(provenance_line(table))
    display.say(f"written to {user_table_path('local')}")
    display.say("next: nas latency show local")
