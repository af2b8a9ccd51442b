"""`nas search`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import INFEASIBLE, INTERRUPTED, handles_errors
from nas.cli.from_settings import takes_settings
from nas.cli.options import Build, Json, Quiet
from nas.cli.progress import ProgressPrinter
from nas.cli.scale import available_processors, network_text, show_scales
from nas.objectives.units import format_count
from nas.runs.settings import Given
from nas.searching.settings import SearchSettings

if TYPE_CHECKING:
    from nas.result import SearchResult
    from nas.runs.front import FrontMember

WORST = 3
"""Classes that are named where classes are uneven."""


@handles_errors
@takes_settings(SearchSettings)
def search(
    given: Given,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what could be searched, and stop.")] = False,
    build: Build = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the networks with the best trade-off between quality and latency.

    Without images, untrained networks are ranked by a score. With `--data` a supernet is trained first and networks are
    ranked by accuracy; with `--supernet` a trained one is used; with `--model` the networks inside a model of timm are
    trained from its own weights; with `--accuracies` they are looked up in a table.
    """
    if dry_run:
        if build:
            from nas.searching.preview import bounding_settings

            settings = bounding_settings(given)
            _build(settings.space, settings.target)
        _preview(given, json)
        return
    if build:
        raise typer.BadParameter("`--build` goes with `--dry-run`; a search measures what it needs by itself")
    import nas

    if not {"workers", "ray_address", "gpus_per_trial", "executor"} & given.keys():
        given["executor"] = "in-process"
    given.setdefault("workers", available_processors())
    with ProgressPrinter(quiet) as progress:
        result = nas.search(**given, progress=progress)
    if json:
        display.print_json(result.document)
    else:
        _show(result)
    if result.is_interrupted:
        display.say(f"interrupted; go on with: nas search --resume {display.quoted(result.run)}")
        raise typer.Exit(INTERRUPTED)


def _show(result: SearchResult) -> None:
    from nas.cli.front_table import show_fronts
    from nas.report.ranking import by_accuracy, is_untrained, ranked_by

    document = result.document
    show_fronts(result)
    if result.settled is not None:
        display.say(f"the controller settled on {_settled_text(result.settled)}; `--pick settled` exports it")
    for source in document["sources"]:
        display.say(source)
    if any(latency["extrapolated"] for entry in document["front"] for latency in entry["latency"].values()):
        display.say(display.RANGES)
    _show_verified(document.get("verified"))
    if is_untrained(result):
        display.say(f"{ranked_by(result)} By accuracy:")
        for command in by_accuracy(result):
            display.say(f"      {command}")
    display.say(f"written to {display.short(result.run)}")
    display.say(f"next: nas report {display.quoted(result.run)}")
    if "verified" in document:
        display.say(f"exported to {display.short(result.run / document['verified']['export'])}")
        if "file" in document["verified"].get("scales", {}):
            display.say(f"at several scales: {display.short(result.run / document['verified']['scales']['file'])}")
    else:
        display.say(f"      nas export {display.quoted(result.run)}")


def _settled_text(member: FrontMember) -> str:
    numbers = {**member.objectives, **member.scores}
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
    return f"{network_text(member.architecture)} ({figures})" if figures else network_text(member.architecture)


def _show_verified(verified: dict[str, Any] | None) -> None:
    if not verified:
        return
    for line in verified_lines(verified):
        display.say(line)
    if "scales" in verified:
        show_scales(verified["scales"])


def verified_lines(verified: dict[str, Any]) -> list[str]:
    """What was found out about the exported winner, a line per fact."""
    if "test_accuracy" in verified:
        found = f"test accuracy {verified['test_accuracy']:.2%}"
    elif "test_mean_average_precision" in verified:
        found = f"mean average precision {verified['test_mean_average_precision']:.2%}"
    elif "test_mean_iou" in verified:
        found = f"mean IoU {verified['test_mean_iou']:.2%} by a linear classifier of its patches"
    else:
        found = f"fidelity {verified['test_fidelity']:.3f} (mean cosine with the whole model's features)"
    lines = [
        f"winner ({verified['pick']}): {found}, of the exported ONNX file in ONNX Runtime on"
        f" {verified['test_images']} images that nothing has looked at before"
    ]
    lines += baseline_lines(verified)
    if "original_test_accuracy" in verified:
        lines.append(f"original model, on the same images: test accuracy {verified['original_test_accuracy']:.2%}")
    elif "original_test_mean_average_precision" in verified:
        worth = verified["original_test_mean_average_precision"]
        lines.append(f"original model, on the same images: mean average precision {worth:.2%}")
    elif "original_test_mean_iou" in verified:
        lines.append(f"original model, on the same images: mean IoU {verified['original_test_mean_iou']:.2%}")
    for target, measured in verified.get("latency", {}).items():
        lines.append(
            f"winner ({verified['pick']}): measured {measured['ms']:.3g} ms on `{target}`,"
            f" {verified['latency_difference']:+.1%} beside the predicted"
        )
    lines += [f"warning: {warning}" for warning in verified.get("warnings", [])]
    return lines


def baseline_lines(verified: Mapping[str, Any]) -> list[str]:
    """What accuracy on the test part is to be seen beside; nothing for a run of an earlier release."""
    if "test_by_label" in verified:
        return label_lines(verified)
    if "test_by_class" not in verified:
        return []
    by_class: dict[str, dict[str, Any]] = verified["test_by_class"]
    share, accuracy = verified["test_commonest_accuracy"], verified["test_accuracy"]
    lines = [
        f"beside it: balanced accuracy {verified['test_balanced_accuracy']:.2%}; always saying"
        f" `{verified['test_commonest_class']}` would be right on {share:.2%}"
    ]
    if verified["test_is_uneven"]:
        worst = sorted(by_class.items(), key=lambda item: item[1]["accuracy"])[:WORST]
        named = ", ".join(f"`{name}` {facts['accuracy']:.0%} of {facts['images']}" for name, facts in worst)
        lines.append(f"warning: classes are uneven, so look at each class; least accurate: {named}")
    if accuracy <= share:
        lines.append("warning: the network is no better than always saying the commonest class")
    return lines


def label_lines(verified: Mapping[str, Any]) -> list[str]:
    """What mean average precision on the test part is to be seen beside."""
    by_label: dict[str, dict[str, Any]] = verified["test_by_label"]
    worst = sorted(by_label.items(), key=lambda item: item[1]["average_precision"] or 0.0)[:WORST]
    named = ", ".join(
        f"`{name}` {facts['average_precision'] or 0:.0%} (prior {facts['prior']:.0%})" for name, facts in worst
    )
    lines = [
        f"beside it: macro AUROC {verified['test_macro_auroc']:.2%}; guessing would have a mean average precision of"
        f" {verified['test_prior']:.2%}, the labels' mean share of images; lowest: {named}"
    ]
    if verified["test_mean_average_precision"] <= verified["test_prior"]:
        lines.append("warning: the network is no better than guessing")
    return lines


def _build(space: str, target: str) -> None:
    from nas.latency.build import ensure_target
    from nas.latency.evidence import require_buildable
    from search_spaces import get_space

    require_buildable(target)
    with ProgressPrinter() as progress:
        ensure_target(target, get_space(space), progress)


def _preview(given: Given, as_json: bool) -> None:
    import dataclasses

    import nas
    from nas.objectives.quantities import get_quantity
    from nas.records.network import SIZES, target_of

    preview = nas.preview(**given)
    space, target = preview.space, preview.target
    if as_json:
        members = [{**member.to_dict(), "latency": member.latency[target].claims()} for member in preview.members]
        display.print_json({"schema": 1, **dataclasses.asdict(preview), "members": members})
    else:
        further = [name for name in preview.limits if name not in SIZES and target_of(name) is None]
        rows = [
            [
                member.name,
                display.describe(member.architecture),
                *display.size_text(member.params, member.macs),
                *(display.latency_text(vars(latency)) for latency in member.latency.values()),
                *(get_quantity(name).text(member.costs[name]) for name in further),
            ]
            for member in preview.members
        ]
        columns = ["", "network", "params", "MACs", *(f"latency {name}" for name in preview.members[0].latency)]
        display.print_table([*columns, *further], rows, left=2)
        display.say(f"{space}: up to {format_count(preview.encodings)} architectures" if preview.encodings < 1e12
                    else f"{space}: up to {preview.encodings:.1e} architectures")  # fmt: skip
        display.say(preview.source)
        if any(member.latency[target].extrapolated for member in preview.members):
            display.say(display.RANGES)
        if preview.limits:
            limits = " and ".join(_limit_text(name, upper, target) for name, upper in preview.limits.items())
            verdict = "can be met" if preview.can_be_met else "cannot be met"
            all_of_them = "all of them" if len(preview.limits) > 1 else "it"
            reason = f"; the nearest one has {preview.reason}" if preview.reason else ""
            display.say(
                f"{limits} {verdict}: {preview.share_within:.1%} of random networks stay within {all_of_them}{reason}"
            )
    if not preview.can_be_met:
        raise typer.Exit(INFEASIBLE)


def _limit_text(name: str, upper: float, target: str) -> str:
    from nas.objectives.quantities import get_quantity
    from nas.records.network import target_of

    device = target_of(name)
    if device is not None:
        return f"{upper:.4g} ms" if device == target else f"{upper:.4g} ms on {device}"
    return f"{name} of {get_quantity(name).text(upper)}"
