"""`nas correlate`: which score ranks networks that you have trained."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.options import Json, Quiet, in_range
from nas.cli.progress import ProgressPrinter

if TYPE_CHECKING:
    from nas.scores.correlate import CorrelationReport, ScoreCorrelation
    from nas.scores.rank_statistics import Estimate

ALL = "all"


@handles_errors
def correlate(
    accuracies: Annotated[Path, typer.Argument(help="CSV file with the columns `network` and `accuracy`.")],
    scores: Annotated[str, typer.Option(help="Scores: `all`, or names with commas.")] = ALL,
    repeats: Annotated[int, typer.Option(min=1, callback=in_range, help="Initialisations per network and score.")] = 3,
    batch_size: Annotated[int, typer.Option(min=4, callback=in_range, help="Images of noise per initialisation.")] = 16,
    image_size: Annotated[
        int | None, typer.Option(min=1, callback=in_range, help="Side of the images in pixels, for timm models.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, callback=in_range, help="Seed of everything random.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show how well scores rank networks whose accuracy is known."""
    from nas.scores.correlate import correlate as correlate_networks
    from nas.scores.correlate import read_trained
    from nas.scores.registry import get_score, score_names

    names = score_names() if scores.strip() == ALL else [name.strip() for name in scores.split(",") if name.strip()]
    for name in names:
        get_score(name)
    trained = read_trained(accuracies, image_size)
    with ProgressPrinter(quiet) as progress:
        report = correlate_networks(
            trained, names, repeats=repeats, batch_size=batch_size, seed=seed, progress=progress
        )
    if json:
        display.print_json(_document(report))
    else:
        _print(report)


def _print(report: CorrelationReport) -> None:
    rows = [
        [
            score.name,
            _number(score.tau.value),
            _interval(score.tau),
            _number(score.given_params.value),
            _interval(score.given_params),
            str(score.tau.count),
            f"{score.seconds:.2g}",
        ]
        for score in report.scores
    ]
    if report.few_label is not None:
        estimate = report.few_label
        few_label = [
            "few-label predictor",
            _number(estimate.value),
            _interval(estimate),
            "",
            "",
            str(estimate.count),
            "",
        ]
        rows.append(few_label)
    columns = ["score", "tau", "95 % interval", "tau given params", "95 % interval", "networks", "CPU s per network"]
    display.print_table(columns, rows)
    if report.few_label is not None:
        display.say("few-label predictor: each network is predicted from the accuracies of four fifths of the networks")
    for note in report.notes:
        display.say(f"note: {note}")
    for score in report.scores:
        if score.failures:
            network, reason = score.failures[0]
            display.say(f"note: {score.name} has no value for {len(score.failures)} networks; `{network}`: {reason}")


def _document(report: CorrelationReport) -> dict[str, Any]:
    return {
        "schema": 1,
        "networks": report.count,
        "scores": [_entry(score) for score in report.scores],
        "few_label": None if report.few_label is None else _estimate(report.few_label),
        "notes": list(report.notes),
    }


def _entry(score: ScoreCorrelation) -> dict[str, Any]:
    return {
        "name": score.name,
        "tau": _estimate(score.tau),
        "tau_given_params": _estimate(score.given_params),
        "seconds_per_network": score.seconds,
        "failures": dict(score.failures),
    }


def _estimate(estimate: Estimate) -> dict[str, float | int | None]:
    ends = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {
        **{name: value if math.isfinite(value) else None for name, value in ends.items()},
        "networks": estimate.count,
    }


def _number(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "n/a"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:+.2f} to {estimate.high:+.2f}" if math.isfinite(estimate.low) else "n/a"
