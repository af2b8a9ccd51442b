"""`nas search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import INFEASIBLE, INTERRUPTED, handles_errors, run_folder
from nas.cli.options import Force, Json, Output, Quiet, Seed, TrainingSetting
from nas.cli.progress import ProgressPrinter
from nas.cli.scale import available_processors, network_text
from nas.cli.units import format_count, parse_count, parse_duration, parse_limits

if TYPE_CHECKING:
    from nas.executors.base import ExecutorName
    from nas.result import FrontMember, SearchResult

QUESTION, RUN, OUTPUT = "Question", "Run", "Output"


@handles_errors
def search(
    space: Annotated[str | None, typer.Option(help="Search space, see `nas spaces`.", rich_help_panel=QUESTION)] = None,
    target: Annotated[
        str | None, typer.Option(help="Device whose latency counts, see `nas targets`.", rich_help_panel=QUESTION)
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TIME",
            help="Hard bound on the latency, for example 12ms; `local=3ms` on another device. Repeatable.",
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="What to optimise, for example accuracy,latency:pixel6,latency:local,params (or macs)."),
    ] = None,
    macs: Annotated[
        float | None,
        typer.Option(parser=parse_count, metavar="COUNT", help="MACs of the networks: a window that ends there."),
    ] = None,
    params: Annotated[
        float | None, typer.Option(parser=parse_count, metavar="COUNT", help="Their parameters, likewise.")
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(help="Where --macs and --params begin, as a share; 0 for no lower end.  [default: 0.975]"),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="`digits`, a folder of images, or a dataset of timm: train, then search.")
    ] = None,
    supernet: Annotated[Path | None, typer.Option(help="Run folder of `nas train`: search its weights.")] = None,
    score: Annotated[
        str | None, typer.Option(help="What ranks untrained networks, see `nas score`: capacity, params, naswot...")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A vision transformer of timm to search inside, with --data, see `nas profile`.",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Its weights: a file or folder, pretrained (from timm), or random.  [default: pretrained]"),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="How the supernet is trained, as in `nas train`.  [default: uniform]")
    ] = None,
    option: TrainingSetting = None,
    evaluations: Annotated[int | None, typer.Option(min=1, help="Networks to evaluate.")] = None,
    budget: Annotated[
        float | None,
        typer.Option(parser=parse_duration, metavar="TIME", help="Time for everything, for example 6m or 2h."),
    ] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Stop after so many evaluations that bring nothing new to the front.")
    ] = None,
    controller: Annotated[
        str | None,
        typer.Option(
            help="What proposes networks: predictor, nsga2, nsga3, tpe, gp, local, evolution (ElasticViT's),"
            " evolution-resnas (ViT-ResNAS's), reinforce (As-ViT's), or random."
        ),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Networks proposed at once; results depend on it and on the seed alone.")
    ] = None,
    fidelity: Annotated[
        str | None, typer.Option(help="full, or halving: evaluate all a little and the best of them more.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that evaluate; 1 unless given, one per processor for the score as-vit."),
    ] = None,
    executor: Annotated[
        str | None, typer.Option(help="Where to evaluate: in-process, local (processes), or ray (a cluster).")
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster to join, for example auto.")
    ] = None,
    gpus_per_trial: Annotated[float, typer.Option(min=0, help="Share of a GPU for each worker on Ray.")] = 0.0,
    seed: Seed = None,
    run: Output = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run; only budgets may change.")
    ] = None,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what could be searched, and stop.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the networks with the best trade-off between quality and latency.

    Without images, untrained networks are ranked by a score. With `--data` a supernet is trained first and networks are
    ranked by accuracy; with `--supernet` a trained one is used; with `--model` the networks inside a model of timm are
    trained from its own weights.
    """
    folder = run_folder(run, resume)
    limit_ms, limits = parse_limits(limit or [])
    if dry_run:
        _preview(space or (f"timm:{model}" if model else "elastic"), target or "pixel6", limit_ms, json)
        return
    import nas
    from nas.training.options import parse_options

    stays_here = workers is None and ray_address is None and not gpus_per_trial
    with ProgressPrinter(quiet) as progress:
        result = nas.search(
            space,
            target,
            limit_ms,
            data=data,
            supernet=supernet,
            score=score,
            objectives=objectives,
            limits=limits or None,
            macs=macs,
            params=params,
            window=window,
            evaluations=evaluations,
            budget_seconds=budget,
            patience=patience,
            seed=seed,
            controller=controller,
            batch=batch,
            fidelity=fidelity,
            model=model,
            weights=weights,
            policy=policy,
            options=parse_options(option or []),
            output=folder,
            resume=resume is not None,
            force=force,
            workers=workers or available_processors(),
            executor=_executor(executor) or ("in-process" if stays_here else None),
            ray_address=ray_address,
            gpus_per_trial=gpus_per_trial,
            progress=progress,
        )
    if json:
        display.print_json(result.document)
    else:
        _show(result)
    if result.is_interrupted:
        display.say(f"interrupted; go on with: nas search --resume {display.short(result.run)}")
        raise typer.Exit(INTERRUPTED)


def _executor(name: str | None) -> ExecutorName | None:
    if name is None:
        return None
    from nas.executors.base import EXECUTORS

    known = next((executor for executor in EXECUTORS if executor == name), None)
    if known is None:
        raise typer.BadParameter(f"executor `{name}`, expected one of {', '.join(f'`{known}`' for known in EXECUTORS)}")
    return known


def _show(result: SearchResult) -> None:
    from nas.cli.front_table import show_fronts

    document = result.document
    show_fronts(result)
    if result.settled is not None:
        display.say(f"the controller settled on {_settled_text(result.settled)}; `--pick settled` exports it")
    for source in document["sources"]:
        display.say(source)
    if any(latency["extrapolated"] for entry in document["front"] for latency in entry["latency"].values()):
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
    if "original_test_accuracy" in verified:
        lines.append(f"original model, on the same images: test accuracy {verified['original_test_accuracy']:.2%}")
    for target, measured in verified.get("latency", {}).items():
        lines.append(
            f"winner ({verified['pick']}): measured {measured['ms']:.3g} ms on `{target}`,"
            f" {verified['latency_difference']:+.1%} beside the predicted"
        )
    lines += [f"warning: {warning}" for warning in verified.get("warnings", [])]
    return lines


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
