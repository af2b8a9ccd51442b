"""`nas latency calibrate`: a table of a device that one has published figures of, but not in hand."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json, Quiet
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import three_digits


@handles_errors
def calibrate(
    figures: Annotated[
        Path, typer.Argument(help="CSV with the columns model and latency_ms; one device and runtime per file.")
    ],
    name: Annotated[str, typer.Option(help="Name of the new target.")],
    device: Annotated[str, typer.Option(help="Device, where the file does not say.")] = "",
    processor: Annotated[str, typer.Option(help="Processor of the device, where the file does not say.")] = "",
    runtime: Annotated[str, typer.Option(help="Runtime, where the file does not say.")] = "",
    precision: Annotated[str, typer.Option(help="Precision, where the file does not say: fp32, fp16 or int8.")] = "",
    threads: Annotated[str, typer.Option(help="Number of threads, where the file does not say.")] = "",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit a table to published latencies of whole networks, without the device.

    A model is a timm name, a published name such as `MNv4-Conv-S`, `space/name`, or the path of an ONNX file. Optional
    columns: family, input_px, macs_m, source, device, processor, runtime, precision, threads.
    """
    from latency_tables.targets import error_summary
    from nas.latency.calibration import calibrate_target

    given = {"device": device, "processor": processor, "runtime": runtime, "precision": precision, "threads": threads}
    with ProgressPrinter(quiet) as progress:
        result = calibrate_target(figures, name, given, progress)
    table = result.table
    if json:
        display.print_json(
            {
                "schema": 1,
                "target": table.name,
                "path": str(result.path),
                "left_out": list(result.left_out),
                "ignored_columns": list(result.ignored),
                "validation": table.validation.model_dump(mode="json"),
            }
        )
        return
    rows = [
        [
            figure.model,
            figure.family,
            three_digits(figure.measured_ms),
            three_digits(figure.left_out_ms),
            f"{figure.left_out_ms / figure.measured_ms - 1:+.1%}",
            f"{figure.mac_line_left_out_ms / figure.measured_ms - 1:+.1%}",
        ]
        for figure in table.figures
    ]
    display.print_table(["network", "family", "published ms", "left out ms", "error", "MAC line"], rows, left=2)
    if result.ignored:
        display.say(f"columns that mean nothing here: {', '.join(result.ignored)}")
    for note in table.provenance.notes:
        display.say(f"note: {note}")
    coverage = table.validation.interval_coverage
    display.say(f"{error_summary(table)}; {coverage:.0%} inside their {table.interval.coverage:.0%} interval")
    display.say(f"wrote {display.short(result.path)}; use it with `--target {shlex.quote(table.name)}`")
