"""`nas split`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.from_settings import takes_settings
from nas.cli.options import Json, Quiet
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_count
from nas.runs.settings import Given
from nas.splitting.settings import SplitSettings


@handles_errors
@takes_settings(SplitSettings)
def split(given: Given, *, json: Json = False, quiet: Quiet = False) -> None:
    """Share one trained model between several devices, each with a network of its own and classes of its own."""
    import nas

    with ProgressPrinter(quiet) as progress:
        found = nas.split(**given, progress=progress)
    if json:
        display.print_json({**found.plan, "folder": str(found.folder)})
        return
    plan, whole_macs = found.plan, found.plan["whole"]["macs"]
    rows = [
        [
            entry["folder"],
            ", ".join(entry["classes"]),
            f"{format_count(entry['macs'])} ({entry['macs'] / whole_macs:.0%})",
            f"{entry['bytes'] / 1e6:.3g} MB",
            display.latency_text(entry),
            f"{entry['send_ms']:.3g} ms",
        ]
        for entry in plan["devices"]
    ]
    display.print_table(["device", "its classes", "MACs, of the whole", "memory", "computes", "sends"], rows, left=2)
    accuracy, single = plan["accuracy"], plan["single"]
    display.say(_together(plan))
    display.say(
        f"test part, {accuracy['test_images']} images: split {accuracy['split']:.2%} in ONNX Runtime, whole model"
        f" {accuracy['whole']:.2%}, best single network {accuracy['single']:.2%} in"
        f" {display.latency_text(single)} on {single['target']}"
    )
    if accuracy["single"] >= accuracy["split"]:
        display.say("note: the single network is as good, and needs no link")
    display.say(f"written to {display.short(found.folder)}")


def _together(plan: Mapping[str, Any]) -> str:
    """What an answer takes; without evidence for a network only what it takes at most."""
    if plan["latency_ms"] is None:
        return (
            f"together up to {plan['high_ms']:.3g} ms (limit {plan['limit_ms']:.3g}), up to"
            f" {plan['shared_link_high_ms']:.3g} ms where all share one link; a range without a number: no figure"
            " behind the table is of networks like these"
        )
    return (
        f"together {plan['latency_ms']:.3g} ms (up to {plan['high_ms']:.3g}, limit {plan['limit_ms']:.3g}) with"
        f" {plan['fusion']['ms']:.2g} ms of fusion; {plan['shared_link_ms']:.3g} ms where all share one link"
    )
