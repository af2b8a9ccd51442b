"""`nas latency predict`: what a target's table says about any network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import display
from nas.cli.errors import FAILED, handles_errors
from nas.cli.options import Build, Json, in_range
from nas.cli.progress import ProgressPrinter
from nas.objectives.units import format_count, three_digits

if TYPE_CHECKING:
    from latency_tables import LatencyTable
    from nas.latency.predict import Prediction
    from nas.networks.named import NamedNetwork


@handles_errors
def predict(
    networks: Annotated[
        list[str],
        typer.Argument(
            help="Network: a timm model, `space/name`, an architecture's JSON file, a run (RUN:knee), or ONNX.",
            show_default=False,
        ),
    ],
    target: Annotated[str, typer.Option(help="Target, see `nas targets`.")] = "local",
    image_size: Annotated[
        int | None,
        typer.Option(
            min=1, callback=in_range, help="Side of the image in pixels, for timm models. Default: their own."
        ),
    ] = None,
    build: Build = False,
    kernels: Annotated[bool, typer.Option("--kernels", help="Show the time of each class of kernels.")] = False,
    json: Json = False,
) -> None:
    """Predict the latency of networks that nobody measured."""
    from latency_tables import LatencyPredictor, load_target, provenance_line, staleness
    from nas.latency.predict import predict_network
    from nas.networks.resolve import resolve_network

    named = [resolve_network(text, image_size) for text in networks]
    if build:
        _build(target, named)
    table = load_target(target)
    predictor = LatencyPredictor(table)
    predictions = [predict_network(predictor, network) for network in named]
    stale = staleness(table)
    if stale:
        display.say(f"warning: table `{table.name}` is out of date: {stale}; run `nas latency build` again")
    for prediction in predictions:
        for note in prediction.notes:
            display.say(f"note: `{prediction.network}`: {note}")
    if json:
        entries = [prediction.to_dict() for prediction in predictions]
        document = {"schema": 1, "target": table.name, "source": provenance_line(table), "stale": stale or None}
        display.print_json({**document, "networks": entries})
    else:
        display.say(provenance_line(table))
        _show(predictions)
        for prediction in predictions:
            if kernels and not prediction.latency.is_declined:
                _show_kernels(prediction)
    _say_evidence(table, [pair for pair in zip(predictions, named, strict=True) if pair[0].latency.extrapolated])
    if all(prediction.latency.is_declined for prediction in predictions):
        raise typer.Exit(FAILED)


def _build(target: str, networks: list[NamedNetwork]) -> None:
    from latency_tables import TableMissingError, load_target
    from nas.latency.build import ensure_groups
    from nas.latency.evidence import missing_groups, require_buildable

    require_buildable(target)
    try:
        table = load_target(target)
    except TableMissingError:
        table = None
    with ProgressPrinter() as progress:
        ensure_groups(missing_groups(table, networks), progress, target.partition("@")[2] or "fp32")


def _say_evidence(table: LatencyTable, unknown: list[tuple[Prediction, NamedNetwork]]) -> None:
    from nas.latency.evidence import known_networks, missing_groups, remedy

    declined = [network for prediction, network in unknown if prediction.latency.is_declined]
    if declined:
        display.say(f"{display.NO_EVIDENCE}: `{table.name}` was made from {known_networks(table)}")
        display.say(f"next: {remedy(table, missing_groups(table, declined))}")
    elif unknown:
        display.say(display.RANGES)


def _show(predictions: list[Prediction]) -> None:
    rows = [
        [
            prediction.network,
            prediction.describe_extrapolation() or "none",
            *display.latency_numbers(prediction.latency),
            str(prediction.input_shape[-1]),
            format_count(prediction.params),
            format_count(prediction.macs),
        ]
        for prediction in predictions
    ]
    columns = ["network", "time without evidence", "ms", "interval ms", "px", "parameters", "MACs"]
    display.print_table(columns, rows, left=2)


def _show_kernels(prediction: Prediction) -> None:
    rows = [
        [
            entry.op,
            str(entry.launches),
            format_count(entry.macs),
            three_digits(entry.ms),
            f"{entry.share:.1%}",
            f"{entry.extrapolated_ms / entry.ms:.0%}" if entry.ms else "0%",
        ]
        for entry in prediction.classes
    ]
    columns = ["kernel class", "kernels", "MACs", "ms", "share", "without evidence"]
    display.print_table(columns, rows, title=prediction.network)
