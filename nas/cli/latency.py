"""`nas latency`: tables of what kernels cost on devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.help import PanelCommand, PanelGroup
from nas.cli.latency_build import build
from nas.cli.latency_calibrate import calibrate
from nas.cli.latency_check import check
from nas.cli.latency_predict import predict
from nas.objectives.units import three_digits

if TYPE_CHECKING:
    from latency_tables import LatencyTable

app = typer.Typer(help="Build and show latency tables.", cls=PanelGroup, no_args_is_help=True, rich_markup_mode=None)


@app.command(cls=PanelCommand)
@handles_errors
def show(
    target: Annotated[str, typer.Argument(help="Target, see `nas targets`.")],
    json: Annotated[bool, typer.Option("--json", help="Print the table itself.")] = False,
) -> None:
    """Show where a target's numbers come from and how wrong they tend to be."""
    from latency_tables import load_target

    table = load_target(target)
    if json:
        display.print_json(table.model_dump(mode="json", by_alias=True))
        return
    provenance, validation = table.provenance, table.validation
    runtime = " ".join(filter(None, (table.runtime.name, table.runtime.version)))
    facts = [
        ["device", f"{table.device.name}, {table.device.processor}"],
        ["runtime", f"{runtime}, {table.precision}, {table.threads} thread(s), batches of {table.batch}"],
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
        *(["interval elsewhere", _elsewhere(table)] for _ in range(provenance.kind == "measured")),
        *(
            [
                f"{entry.kind} networks",
                f"{entry.mean_error:.1%} on {entry.networks} (MAC line {entry.mac_line_mean_error:.1%}),"
                f" {entry.within_interval:.0%} within their intervals",
            ]
            for entry in validation.by_kind
        ),
        ["kernels", f"{len(table.kernels)} stored, {len(table.rooflines)} classes priced by a roofline"],
        *(["note", note] for note in provenance.notes),
    ]
    display.print_table(["", table.name], facts, left=2)
    rows = [
        [
            row.network,
            three_digits(row.measured_ms),
            three_digits(row.predicted_ms),
            f"{row.predicted_ms / row.measured_ms - 1:+.1%}",
        ]
        for row in validation.rows
    ]
    display.print_table(["held-out network", "measured ms", "predicted ms", "error"], rows)
    sources = sorted({figure.source for figure in table.figures})
    for source in sources:
        display.say(f"source: {source}")


def _elsewhere(table: LatencyTable) -> str:
    from latency_tables.evidence import Evidence

    interval = Evidence.of(table).interval("")
    how = "families predicted without themselves" if table.foreign_interval else "no families in the table to tell"
    return f"{interval.low:+.0%} to {interval.high:+.0%} for other networks than those of the fit ({how})"


app.command("build", cls=PanelCommand)(build)
app.command("calibrate", cls=PanelCommand)(calibrate)
app.command("predict", cls=PanelCommand)(predict)
app.command("check", cls=PanelCommand)(check)
