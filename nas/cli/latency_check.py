"""`nas latency check`: predicted beside measured, on networks that the table has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json, Quiet, in_range
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import three_digits

if TYPE_CHECKING:
    from nas.latency.check import CheckResult


@handles_errors
def check(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Networks by name, as for `nas latency predict`.", show_default=False),
    ] = None,
    target: Annotated[str, typer.Option(help="Target with a table that was measured here.")] = "local",
    spaces: Annotated[
        str | None,
        typer.Option(help="Groups to sample, with commas; `elastic,elastic-mini,vit` where no network is named."),
    ] = None,
    networks: Annotated[int, typer.Option(min=1, callback=in_range, help="Networks to measure of each group.")] = 40,
    seed: Annotated[int, typer.Option(min=0, callback=in_range, help="Seed of the sample, unlike the table's.")] = 1,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result as JSON.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure networks that the table has not seen, and compare with what it predicts."""
    from nas.latency.check import check_target
    from nas.records.files import write_json

    listed = spaces if spaces is not None else "" if models else "elastic,elastic-mini,vit"
    groups = list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))
    with ProgressPrinter(quiet or json) as progress:
        result = check_target(target, models or (), groups, networks=networks, seed=seed, progress=progress)
    if output is not None:
        write_json(output, result.to_dict())
    if json:
        display.print_json(result.to_dict())
        return
    display.say(result.source)
    _show(result)
    if output is not None:
        display.say(f"written to {display.short(output)}")


def _show(result: CheckResult) -> None:
    from nas.latency.check import NAMED

    rows = [
        [
            group,
            str(len(summary.rows)),
            f"{summary.rmspe:.1%}",
            f"{summary.within_5_percent:.0%}",
            f"{summary.within_10_percent:.0%}",
            f"{summary.spearman:.3f}" if len(summary.rows) > 2 else "-",
            f"{summary.worst:.1%}",
            f"{summary.interval_coverage:.0%}",
            f"{summary.mac_line_rmspe:.1%}",
        ]
        for group, summary in result.summaries().items()
    ]
    columns = [
        "group",
        "networks",
        "RMSPE",
        "within 5 %",
        "within 10 %",
        "Spearman",
        "worst",
        "in interval",
        "MAC line's RMSPE",
    ]
    display.print_table(columns, rows)
    declined = [network for network in result.networks if network.is_declined]
    outside = [network for network in result.networks if not network.is_inside and not network.is_declined]
    shown = [network for network in result.networks if network.group == NAMED or network in outside]
    columns = ["network", "why it may be off", "measured ms", "predicted ms", "interval ms", "error"]
    lines = [
        [
            network.name,
            network.reason or ("unknown" if network in outside else ""),
            three_digits(network.measured_ms),
            *display.latency_numbers(network.prediction.latency),
            "" if network.is_declined else f"{network.error:+.1%}",
        ]
        for network in shown
    ]
    if lines:
        display.print_table(columns, lines, left=2)
    display.say(
        f"{len(outside)} of {len(result.networks) - len(declined)} networks lie outside their interval;"
        f" measured is the {'median' if result.statistic == 'median' else '5th percentile'} of the runs"
    )
    if result.machine_change is not None:
        changes = [network.change for network in result.again]
        display.say(
            f"{len(changes)} networks that the table was made from take {result.machine_change:+.1%} now (median;"
            f" {min(changes):+.1%} to {max(changes):+.1%}): so much of the errors is the machine's"
        )
    if declined:
        display.say(f"the table has no evidence for {len(declined)} more networks, and predicts nothing of them")
    if result.skipped:
        display.say(f"left out, since the table was fitted to them: {', '.join(result.skipped)}")
