"""`nas search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import INFEASIBLE, INTERRUPTED, handles_errors, run_folder
from nas.cli.progress import ProgressPrinter
from nas.cli.scale import available_processors, network_text
from nas.cli.units import format_count, parse_duration, parse_latency

if TYPE_CHECKING:
    from nas.result import FrontMember, SearchResult

QUESTION, RUN, OUTPUT = "Question", "Run", "Output"


@handles_errors
def search(
    space: Annotated[str | None, typer.Option(help="Search space, see `nas spaces`.", rich_help_panel=QUESTION)] = None,
    target: Annotated[
        str | None, typer.Option(help="Device whose latency counts, see `nas targets`.", rich_help_panel=QUESTION)
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(parser=parse_latency, metavar="TIME", help="Hard bound on the latency, for example 12ms."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="`digits`, a folder of images, or a dataset of timm: train, then search.")
    ] = None,
    supernet: Annotated[Path | None, typer.Option(help="Run folder of `nas train`: search its weights.")] = None,
    score: Annotated[
        str | None, typer.Option(help="What ranks untrained networks, see `nas score`: capacity, params, naswot...")
    ] = None,
    evaluations: Annotated[int | None, typer.Option(min=1, help="Networks to evaluate.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="TIME", help="Time for everything, for example 6m or 2h."),
    ] = None,
    controller: Annotated[
        str | None,
        typer.Option(
            help="What proposes networks: predictor, nsga2, evolution (ElasticViT's), evolution-resnas (ViT-ResNAS's),"
            " reinforce (As-ViT's), or random."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes for the score as-vit; one per processor unless given.", show_default=False),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything random.")] = None,
    run: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder to write.")] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run; only budgets may change.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Throw away what the run folder holds.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what could be searched, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Find the networks with the best trade-off between quality and latency.

    Without images, untrained networks are ranked by a score. With `--data` a supernet is trained first and networks are
    ranked by accuracy; with `--supernet` a trained one is used.
    """
    folder = run_folder(run, resume)
    if dry_run:
        _preview(space or "elastic", target or "pixel6", limit, json)
        return
    import nas

    with ProgressPrinter(quiet) as progress:
        result = nas.search(
            space,
            target,
            limit,
            data=data,
            supernet=supernet,
            score=score,
            evaluations=evaluations,
            budget_seconds=budget,
            seed=seed,
            controller=controller,
            output=folder,
            resume=resume is not None,
            force=force,
            workers=workers or available_processors(),
            progress=progress,
        )
    if json:
        display.print_json(result.document)
    else:
        _show(result)
    if result.is_interrupted:
        display.say(f"interrupted; go on with: nas search --resume {display.short(result.run)}")
        raise typer.Exit(INTERRUPTED)


def _show(result: SearchResult) -> None:
    from nas.annotate import MEMBERS, spread

    document = result.document
    score = result.objective.replace("_", " ")
    beside = sorted({name for entry in document["front"] for name in entry.get("scores", {})})
    picked = result.pick("knee").number if document["front"] else None
    columns = [
        "",
        "network",
        "params",
        "MACs",
        f"latency {result.target}",
        score,
        *(n.replace("_", " ") for n in beside),
    ]
    rows = []
    shown = sorted(
        {*spread(len(result.front), MEMBERS), *(i for i, m in enumerate(result.front) if m.number == picked)}
    )
    for position in shown:
        entry, member = document["front"][position], result.front[position]
        values = [entry["objectives"][result.objective], *(entry.get("scores", {}).get(name) for name in beside)]
        rows.append(
            [
                f"{position}" + (" <- knee" if member.number == picked else ""),
                display.describe(member.architecture),
                *display.size_text(member.params, member.macs),
                display.latency_text(entry["latency"][result.target]),
                *(
                    "" if value is None else _score_text(name, value)
                    for name, value in zip(columns[5:], values, strict=True)
                ),
            ]
        )
    display.print_table(columns, rows, left=2)
    if len(shown) < len(result.front):
        everything = display.short(result.run / "front.json")
        display.say(f"{len(shown)} of the {len(result.front)} networks on the front; all are in {everything}")
    if result.settled is not None:
        display.say(f"the controller settled on {_settled_text(result.settled)}; `--pick settled` exports it")
    for source in document["sources"]:
        display.say(source)
    if any(entry["latency"][result.target]["extrapolated"] for entry in document["front"]):
        display.say("* extrapolated: the table has no direct evidence for some of this network's kernels")
    _show_verified(document.get("verified"))
    display.say(f"written to {display.short(result.run)}")
    display.say(f"next: nas report {display.short(result.run)}")
    if "verified" in document:
        display.say(f"exported to {display.short(result.run / document['verified']['export'])}")
    else:
        display.say(f"      nas export {display.short(result.run)} --pick knee")


def _settled_text(member: FrontMember) -> str:
    numbers = {**member.objectives, **member.scores}
    figures = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in numbers.items())
    return f"{network_text(member.architecture)} ({figures})" if figures else network_text(member.architecture)


def _show_verified(verified: dict[str, Any] | None) -> None:
    if not verified:
        return
    for line in verified_lines(verified):
        display.say(line)


def verified_lines(verified: dict[str, Any]) -> list[str]:
    """What was found out about the exported winner, a line per fact."""
    lines = [
        f"winner ({verified['pick']}): test accuracy {verified['test_accuracy']:.2%}, of the exported ONNX file in ONNX"
        f" Runtime on {verified['test_images']} images that nothing has looked at before"
    ]
    for target, measured in verified.get("latency", {}).items():
        lines.append(
            f"winner ({verified['pick']}): measured {measured['ms']:.3g} ms on `{target}`,"
            f" {verified['latency_difference']:+.1%} beside the predicted"
        )
    lines += [f"warning: {warning}" for warning in verified.get("warnings", [])]
    return lines


def _score_text(name: str, value: float) -> str:
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"


def _preview(space: str, target: str, limit: float | None, as_json: bool) -> None:
    import dataclasses

    import nas

    preview = nas.preview(space, target, limit)
    if as_json:
        members = [
            {**dataclasses.asdict(member), "architecture": member.architecture.to_dict()} for member in preview.members
        ]
        display.print_json({"schema": 1, **dataclasses.asdict(preview), "members": members})
    else:
        rows = [
            [
                member.name,
                display.describe(member.architecture),
                *display.size_text(member.params, member.macs),
                display.latency_text(dataclasses.asdict(member.latency)),
            ]
            for member in preview.members
        ]
        display.print_table(["", "network", "params", "MACs", f"latency {target}"], rows, left=2)
        display.say(f"{space}: up to {format_count(preview.encodings)} architectures" if preview.encodings < 1e12
                    else f"{space}: up to {preview.encodings:.1e} architectures")  # fmt: skip
        display.say(preview.source)
        if limit is not None:
            verdict = "can be met" if preview.can_be_met else "cannot be met"
            display.say(f"{limit:g} ms {verdict}: {preview.share_within:.1%} of random networks stay within it")
    if not preview.can_be_met:
        raise typer.Exit(INFEASIBLE)
