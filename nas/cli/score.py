"""`nas score`: training-free scores of any network, beside its size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import FAILED, handles_errors
from nas.cli.options import Json, Quiet, in_range
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_count

if TYPE_CHECKING:
    from nas.networks.named import NamedNetwork
    from nas.scores.base import ScoreResult

ALL = "all"
SIZE = ("params", "macs")

Results = Mapping[str, "ScoreResult"]


@handles_errors
def score(
    networks: Annotated[
        list[str],
        typer.Argument(
            metavar="NETWORK...",
            help="Network: `space/name`, an architecture as JSON or in a file, a run, an ONNX file, or a timm model.",
        ),
    ],
    scores: Annotated[str, typer.Option(help="Scores: `all`, or names with commas.")] = ALL,
    repeats: Annotated[int, typer.Option(min=1, callback=in_range, help="Initialisations to average over.")] = 3,
    seed: Annotated[
        int, typer.Option(min=0, callback=in_range, help="Seed of the first initialisation; others count on.")
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=4, callback=in_range, help="Images of noise in each repeat.")] = 16,
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1, callback=in_range, help="Side in pixels of the images, for timm models.", show_default="its own"
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score untrained networks; higher is better, always. Parameters and MACs are given beside every score."""
    from nas.events import StageProgress
    from nas.networks.resolve import resolve_network
    from nas.scores.measure import evaluate_scores
    from nas.scores.registry import get_score
    from nas.scores.subject import ScoreSubject

    names = _names(scores)
    for name in names:
        get_score(name)
    resolved = [resolve_network(text, image_size) for text in dict.fromkeys(networks)]
    found: list[Results] = []
    with ProgressPrinter(quiet) as progress:
        for done, network in enumerate(resolved):
            progress(StageProgress(f"scoring {network.name}", done, len(resolved)))
            subject = ScoreSubject.of(network)
            found.append(evaluate_scores(subject, names, seed=seed, repeats=repeats, batch_size=batch_size))
    if json:
        settings = {"seed": seed, "repeats": repeats, "batch_size": batch_size}
        display.print_json({"schema": 1, **settings, "networks": _document(resolved, found)})
    else:
        _print(resolved, found)
    if all(result.failure for results in found for result in results.values()):
        raise typer.Exit(FAILED)


def _names(scores: str) -> list[str]:
    """The scores asked for, size always among them and first."""
    from nas.scores.registry import score_names

    given = score_names() if scores.strip() == ALL else [name.strip() for name in scores.split(",") if name.strip()]
    if not given:
        raise typer.BadParameter("`--scores` names no score, expected `all` or names with commas")
    return list(dict.fromkeys([*SIZE, *given]))


def _print(networks: Sequence[NamedNetwork], found: Sequence[Results]) -> None:
    """One row per score and one column per network: mean and standard deviation over the repeats."""
    rows = [
        [name, *(_cell(results[name]) for results in found), f"{sum(results[name].seconds for results in found):.1f}"]
        for name in found[0]
    ]
    display.print_table(["score", *(network.name for network in networks), "CPU s"], rows)
    display.say("± is the standard deviation over repeats; passes that scores share count in the CPU seconds of each")
    for network, results in zip(networks, found, strict=True):
        for result in results.values():
            if result.failure:
                display.say(f"no `{result.name}` of {network.name}: {result.failure}")


def _cell(result: ScoreResult) -> str:
    if result.failure:
        return "none"
    if result.name in SIZE:
        return format_count(result.value)
    spread = "" if math.isnan(result.spread) else f" ± {result.spread:.2g}"
    return f"{result.value:.4g}{spread}"


def _document(networks: Sequence[NamedNetwork], found: Sequence[Results]) -> list[dict[str, Any]]:
    return [
        {
            "name": network.name,
            "input_shape": list(network.input_shape),
            "scores": {
                result.name: {
                    "value": _finite(result.value),
                    "spread": _finite(result.spread),
                    "repeats": [_finite(value) for value in result.repeats],
                    "seconds": result.seconds,
                    "failure": result.failure or None,
                }
                for result in results.values()
            },
        }
        for network, results in zip(networks, found, strict=True)
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
