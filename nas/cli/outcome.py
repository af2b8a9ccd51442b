"""`nas export` and `nas report`: what becomes of a finished search."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Mapping
from json import dumps as json_text
from pathlib import Path
from typing import Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json
from nas.exporting.formats.names import OURS


@handles_errors
def export(
    run: Annotated[Path, typer.Argument(help="Run folder of `nas search`, or of `nas train --arch`.")],
    pick: Annotated[
        str | None,
        typer.Option(
            help="Network of the front: knee, best, fastest, settled, or a number from its table. Default: what the"
            " search exported, else knee."
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"What to write beside checkpoint and ONNX file, with commas: {', '.join(OURS)}, or another package's"
            " formats.",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Images of the run, where they have moved. Default: where they lay.")
    ] = None,
    batch: Annotated[
        str,
        typer.Option(metavar="1|dynamic", help="Images at once that ONNX files take: 1, or dynamic for any number."),
    ] = "1",
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Repository on the Hugging Face hub that the files are put into too."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: RUN/exports/PICK.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a network of the front, or a trained one, as checkpoint and ONNX file, proven to agree."""
    from nas.errors import UsageError
    from nas.exporting.members import export_run
    from nas.exporting.push import check_push, push_export
    from nas.records.files import bytes_of
    from nas.runs.folder import FINISHED

    if batch not in ("1", "dynamic"):
        raise UsageError(f"`--batch` is `{batch}`, expected `1` or `dynamic`")
    if push is not None:
        check_push(push)
    formats = [] if format is None else format.split(",")
    exported = export_run(run, pick, output, formats, data, batch == "dynamic")
    address = None if push is None else push_export(exported.folder, push)
    if json:
        pushed = {} if address is None else {"pushed": address}
        display.print_json({"schema": 1, "folder": str(exported.folder), "proof": dict(exported.proof), **pushed})
        return
    rows = [[path.name, f"{bytes_of(path) / 1e6:.2f} MB"] for path in sorted(exported.folder.iterdir())]
    display.print_table(["file", "size"], rows)
    difference = exported.proof["onnx_difference"]
    display.say(
        f"proof: stored weights equal the network's; on {exported.proof['images']} images ONNX Runtime differs from"
        f" PyTorch by {difference:.1e} of the logits' range"
    )
    for entry in exported.proof["formats"].values():
        if "batches" in entry:
            sizes = ", ".join(f"{difference:.1e} at {size}" for size, difference in entry["batches"].items())
            display.say(f"`{entry['file']}` takes any number of images at once; logits differ by {sizes}")
    _show_formats(exported.proof["formats"])
    if "timm_difference" in exported.proof:
        name = json_text(f"local-dir:{display.short(exported.folder)}")
        display.say(f"timm loads it: timm.create_model({name}, pretrained=True)")
    if not exported.is_trained:
        display.say("warning: these weights are RANDOM; search with `--data` or `--supernet` for a trained network")
    display.say(f"written to {display.short(exported.folder)}")
    if pick is not None and (run / FINISHED / "exports").is_dir():
        display.say(
            "note: this is the network as it was found; without `--pick` the one that the search trained is written"
        )
    if address is not None:
        display.say(f"pushed to {address}")
        if "timm_difference" in exported.proof:
            display.say(f"timm loads it: timm.create_model({json_text(f'hf-hub:{push}')}, pretrained=True)")


def _show_formats(formats: Mapping[str, Mapping[str, Any]]) -> None:
    """What was measured of every file that runs; nothing where there is the ONNX file alone."""
    if len(formats) < 2:
        return
    from nas.report.words import worth_text

    rows = []
    for name, entry in formats.items():
        worth = worth_text(entry)
        latency = entry.get("latency")
        delegate = entry.get("delegate")
        share = f"{delegate['nodes']} of {delegate['all_nodes']} operators" if delegate else ""
        milliseconds = "" if latency is None else f"{latency['ms']:.3g} ms"
        rows.append([name, entry["file"], worth, milliseconds, f"{entry['difference']:.1e}", share])
    display.print_table(["format", "file", "accuracy", "latency here", "logits differ by", "delegated"], rows, left=2)
    for name, entry in formats.items():
        if "not_measured" in entry:
            display.say(f"warning: the latency of `{name}` was not measured: {entry['not_measured']}")
        if "verdict" in entry:
            display.say(f"{name}: {entry['verdict']}")
        if "kl_calibration" in entry:
            known = [f"written as `{entry['placement']}`"] if "placement" in entry else []
            if "integer_macs" in entry:
                known.append(f"{entry['integer_macs']:.0%} of the multiply-accumulates in integers")
                known.append(f"{len(entry['left_in_fp32'])} layers in fp32")
            known.append(f"KL {entry.get('kl', entry['kl_calibration']):.1e}")
            display.say(f"{name}: {', '.join(known)}")
        if offered := entry.get("bf16", {}).get("offer"):
            display.say(f"{name}: {offered}")


@handles_errors
def report(
    run: Annotated[Path, typer.Argument(help="Run folder of `nas search`.")],
    other: Annotated[
        Path | None, typer.Argument(help="Run folder of another search, to compare with the first.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    robust: Annotated[
        bool, typer.Option("--robust", help="Judge what was exported on disturbed test images first.")
    ] = False,
) -> None:
    """Write a run as one self-contained page, or two runs beside one another."""
    from nas.report import build_comparison, build_report

    if robust and other is not None:
        raise typer.BadParameter("`--robust` goes with one run", param_hint="'--robust'")
    if robust:
        from nas.exporting.robust import note_robustness

        note_robustness(run)
    path = build_report(run) if other is None else build_comparison(run, other)
    typer.echo(os.fspath(path))
    if open_page:
        webbrowser.open(path.resolve().as_uri())
