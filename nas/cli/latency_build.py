"""`nas latency build`: measure a device and keep its table."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Quiet, in_range
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_duration

if TYPE_CHECKING:
    from latency_tables import LatencyTable
    from nas.events import StageProgress

SHARES = {"write networks": (0.0, 0.4), "measure networks": (0.4, 0.85), "profile networks": (0.85, 1.0)}
"""Begin and end of each stage as shares of a build's time on a quiet machine; a phone's stages have none."""
PRECISION = "fp32"
DEFAULT_GROUPS = "elastic,elastic-mini,vit"


@handles_errors
def build(
    target: Annotated[
        str,
        typer.Option(
            help="Device: `local`, this machine; `browser`, one on it; `ssh:user@host[:port]`, a board; `adb:SERIAL`, a"
            " phone; `aihub:NAME`, a phone or board of Qualcomm AI Hub."
        ),
    ] = "local",
    spaces: Annotated[
        str | None,
        typer.Option(
            help="Search spaces and other groups of networks to cover, with commas: `broad`, `vit`, `probes`. Default:"
            " `elastic,elastic-mini,vit`, and `broad` for ONNX Runtime in fp32 on this machine."
        ),
    ] = None,
    networks: Annotated[int, typer.Option(min=1, callback=in_range, help="Networks to measure of each group.")] = 24,
    runtime: Annotated[
        str,
        typer.Option(help="Runtime: `onnxruntime`, `openvino`, `torch`, `litert` `executorch`; `litert` on phones."),
    ] = "",
    provider: Annotated[
        str,
        typer.Option(
            "--provider",
            "--device",
            help="Provider or device of the runtime, else the processor: `cuda`, `tensorrt`, `GPU`, `NPU`...",
        ),
    ] = "",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile networks first (`torch.compile`).")] = False,
    threads: Annotated[int, typer.Option(min=1, callback=in_range, help="Threads that compute.")] = 1,
    batch: Annotated[str, typer.Option(help="Images in a batch; with commas a table for each size.")] = "1",
    precision: Annotated[
        str,
        typer.Option(
            help="Precisions of the networks, with commas: `fp32`; `int8` with ONNX Runtime, OpenVINO and TensorRT,"
            " `fp16` with TensorRT and OpenVINO's devices."
        ),
    ] = PRECISION,
    name: Annotated[str, typer.Option(help="Name of the new target. Default: made from device and runtime.")] = "",
    python: Annotated[str, typer.Option(help="Python on the device that has the runtime.")] = "",
    program: Annotated[
        Path | None, typer.Option(help="Program `benchmark_model` on this machine, for a phone.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, callback=in_range, help="Seed of the draw of networks.")] = 0,
    allow_busy: Annotated[
        bool, typer.Option("--allow-busy", help="Accept that other programs are running; the table says so.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure a device and fit its latency table. Stopped at any moment, the same command goes on."""
    from latency_tables.runtimes import name_in_precision, name_with_provider
    from latency_tables.targets import user_table_path
    from nas.events import Notice
    from nas.latency.build import build as build_table
    from nas.latency.evidence import expected_build
    from nas.latency.request import BuildRequest, check_name, default_runtime

    if name:
        check_name(name)
    provider = "-".join(filter(None, (provider, "compiled" if compiled else "")))
    if provider:
        runtime = runtime or default_runtime(target)
        is_cloud = target.startswith("aihub:")
        runtime = f"{runtime}:{provider.lower()}" if is_cloud else name_with_provider(runtime, provider)
    if spaces is None:
        is_plain = (target, precision) == ("local", PRECISION) and runtime in ("", "onnxruntime")
        spaces = f"broad,{DEFAULT_GROUPS}" if is_plain else DEFAULT_GROUPS
    groups = tuple(part.strip() for part in spaces.split(",") if part.strip())
    request = BuildRequest(groups, target, runtime, threads, networks, name, python, program, seed, allow_busy)
    runtimes = [runtime]
    if target.startswith("aihub:"):
        if precision != PRECISION:
            raise typer.BadParameter(f"`--precision {precision}`: networks are sent to AI Hub in fp32 only")
    else:
        chosen = runtime or default_runtime(target)
        runtimes = [name_in_precision(chosen, each.strip()) for each in precision.split(",")]
    for size in _sizes(batch):
        named = f"{name}-batch-{size}" if name and size > 1 else name
        for each in runtimes:
            with BuildProgress(quiet) as progress:
                if target == "local":
                    progress(Notice(expected_build(request)))
                table = build_table(replace(request, runtime=each, batch=size, name=named), progress)
            show_summary(table.in_precision(each.partition("@")[2] or table.precision))
        display.say(f"written to {user_table_path(table.name)}")
        display.say(f"next: nas latency show {shlex.quote(table.name)}")


def _sizes(batch: str) -> list[int]:
    sizes = [part.strip() for part in batch.split(",")]
    if not all(size.isdecimal() and int(size) > 0 for size in sizes) or len(set(sizes)) < len(sizes):
        raise typer.BadParameter(f"`--batch {batch}`: expected different whole numbers above 0, for example `1,8`")
    return [int(size) for size in sizes]


def show_summary(table: LatencyTable) -> None:
    """How wrong the table is on networks held out of its fit, beside a straight line through MACs."""
    from latency_tables.calibrate import summary

    rows = table.validation.rows
    line = summary("", [row.model_copy(update={"predicted_ms": max(row.mac_line_ms, 1e-9)}) for row in rows])
    columns = ["", "RMSPE", "within 5 %", "within 10 %", "Spearman", "worst"]
    lines = [
        [
            label,
            f"{each.rmspe:.1%}",
            f"{each.within_5_percent:.0%}",
            f"{each.within_10_percent:.0%}",
            f"{each.spearman:.3f}",
            f"{each.worst:.1%}",
        ]
        for label, each in (("this table", table.validation), ("a line through MACs", line))
    ]
    display.print_table(columns, lines, title=f"{table.name}: error on {len(rows)} held-out networks")
    for note in table.provenance.notes:
        display.say(f"note: {note}")


class BuildProgress(ProgressPrinter):
    """One bar over all of a build, with the time that is left."""

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._share = 0.0
        self._start: tuple[float, float] | None = None

    def _on_StageProgress(self, event: StageProgress) -> None:
        if event.name not in SHARES:
            super()._on_StageProgress(event)
            return
        share = self._share = max(share_done(event), self._share)  # rounds that are added would set it back
        text = f"{share:4.0%}  {event.name} {event.done}/{event.total}{self._left(share)}"
        self._update(text, share, is_new=event.name != self._stage)
        self._stage = event.name

    def _left(self, share: float) -> str:
        now = time.monotonic()
        start, share_then = self._start = self._start or (now, share)
        if share - share_then < 0.02:
            return ""
        return f", {format_duration((now - start) * (1 - share) / (share - share_then))} left"


def share_done(event: StageProgress) -> float:
    """How much of a whole build is done; what an earlier process did counts."""
    begin, end = SHARES[event.name]
    return begin + (end - begin) * event.done / max(event.total, 1)
