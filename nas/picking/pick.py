"""Which trained model to take: published accuracy against predicted latency, within limits; nothing is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latency_tables.errors import NoEvidenceError, TableMissingError
from latency_tables.predictor import Latencies, Latency, LatencyPredictor
from latency_tables.targets import load_target, provenance_line, staleness
from nas.errors import NasError, UsageError
from nas.latency.evidence import known_networks, remedy
from nas.latency.sample import BROAD
from nas.objectives.pareto import knee, pareto_mask
from nas.objectives.quantities import get_quantity, limit_name
from nas.picking.published import SOURCE, PublishedModel, published_models
from nas.records.network import latency_name, target_of
from search_spaces.errors import UnknownNameError
from search_spaces.graph import OpGraph


class NothingFitsError(NasError):
    """No model is within all limits."""

    exit_code = 3


@dataclass(frozen=True)
class PickedModel:
    """A model with what it costs on the target.

    Attributes:
        params: Learned numbers.
        macs: Multiply-accumulates of one image.
    """

    model: PublishedModel
    latency: Latency
    params: int
    macs: int

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        model = self.model
        return {
            "model": model.name,
            "image_size": model.image_side,
            "accuracy": model.accuracy,
            "licence": model.licence,
            "is_searchable": model.is_searchable,
            "params": self.params,
            "macs": self.macs,
            "latency": self.latency.claims(),
        }


@dataclass(frozen=True)
class Pick:
    """The answer.

    Attributes:
        target: The device.
        precision: What the target's table computes in.
        limits: Upper ends by quantity; ``latency:TARGET`` for latencies.
        models: Models within the limits, the most accurate first.
        front: Those that no other is both faster and more accurate than, by ascending latency.
        recommended: The most accurate one where there are limits, else the knee of the front.
        considered: Number of models whose latency is known.
        sources: What the numbers rest on.
        warnings: What the reader should know before believing them, one sentence each.
    """

    target: str
    precision: str
    limits: Mapping[str, float]
    models: tuple[PickedModel, ...]
    front: tuple[PickedModel, ...]
    recommended: PickedModel
    considered: int
    sources: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why the recommended one is: ``best`` or ``knee``."""
        return "best" if self.limits else "knee"

    @property
    def to_search(self) -> PickedModel | None:
        """The most accurate model within the limits that can be searched inside; None where none can."""
        return next((model for model in self.models if model.model.is_searchable), None)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "schema": 1,
            "target": self.target,
            "limits": dict(self.limits),
            "considered": self.considered,
            "within_limits": len(self.models),
            "front": [model.to_dict() for model in self.front],
            "recommended": self.recommended.to_dict(),
            "sources": list(self.sources),
            "warnings": list(self.warnings),
        }


def pick(
    target: str = "pixel6",
    limit_ms: float | None = None,
    limits: Mapping[str, float] | None = None,
    image_size: int | None = None,
    licences: Sequence[str] = (),
) -> Pick:
    """The models of timm with the best trade-offs between published accuracy and predicted latency; nothing is trained.

    Accuracy and latency are those at the size of images that accuracy was published for.

    Args:
        target: Device whose latency counts, see `nas targets`.
        limit_ms: Hard limit on the upper end of the predicted latency on ``target``, in milliseconds.
        limits: Hard limits on the latency of other devices, or on quantities such as ``params`` and ``peak-memory``.
        image_size: Side in pixels that images must have; None for any.
        licences: Licences that weights may have, such as ``apache-2.0``; none for any.

    Raises:
        UnknownNameError: There is no such target, quantity or licence.
        UsageError: A limit is not positive, or there are two on one thing.
        NothingFitsError: No model is within the limits; the message says what comes nearest.
        TableMissingError: The target has no latency table yet.
        NoEvidenceError: The target was measured on other networks alone.
    """
    bounds = _bounds(target, limit_ms, limits or {})
    every = published_models()
    known = sorted({model.licence for model in every})
    for licence in licences:
        if licence not in known:
            raise UnknownNameError("licence", licence, known)
    models = [
        model
        for model in every
        if image_size in (None, model.image_side) and (not licences or model.licence in licences)
    ]
    if not models:
        sides = Counter(model.image_side for model in every).most_common(6)
        raise NothingFitsError(
            f"none of the {len(every):,} models has images of {image_size} px and such a licence",
            hint=f"common sizes are {', '.join(str(side) for side, _ in sides)}",
        )
    predictor = _predictor(target)
    graphs = [model.graph for model in models]
    latencies = predictor.graphs(graphs)
    is_within_n = is_known_n = _is_known(predictor, latencies)
    for name, upper in bounds.items():
        value_n = latencies.high_ms if name == latency_name(target) else _values(name, graphs)
        least = float(value_n[is_within_n].min())
        is_within_n = is_within_n & (value_n <= upper)
        if not is_within_n.any():
            text = get_quantity(name).text
            raise NothingFitsError(
                f"none of {int(is_known_n.sum()):,} models is within the limits: the least {name} of any is"
                f" {text(least)}, the limit {text(upper)}",
                hint="raise the limit",
            )
    rows = np.flatnonzero(is_within_n)
    found = tuple(_picked(models[row], latencies, int(row)) for row in rows)
    costs_n2 = np.stack([latencies.ms[rows], [-models[row].accuracy for row in rows]], axis=1)
    on_front = np.flatnonzero(pareto_mask(costs_n2))
    on_front = on_front[np.argsort(costs_n2[on_front, 0], kind="stable")]
    front = tuple(found[row] for row in on_front)
    return Pick(
        target=target,
        precision=predictor.table.precision,
        limits=bounds,
        models=found,
        front=front,
        recommended=front[-1 if bounds else knee(costs_n2[on_front])],
        considered=int(is_known_n.sum()),
        sources=(provenance_line(predictor.table), SOURCE),
        warnings=tuple(_warnings(predictor, len(models) - int(is_known_n.sum()))),
    )


def _predictor(target: str) -> LatencyPredictor:
    try:
        return LatencyPredictor(load_target(target))
    except TableMissingError as error:
        error.hint = "add `--build`: it measures networks of many kinds first"
        raise


def _bounds(target: str, limit_ms: float | None, limits: Mapping[str, float]) -> dict[str, float]:
    """The limits by the full names of quantities."""
    bounds = {} if limit_ms is None else {latency_name(target): limit_ms}
    for name, upper in limits.items():
        full = limit_name(name)
        if full in bounds:
            raise UsageError(f"two limits on `{full}`: {bounds[full]:g} and {upper:g}")
        bounds[full] = upper
    for name, upper in bounds.items():
        if not upper > 0:
            raise UsageError(f"the limit on `{name}` is {upper:g}, expected more than 0")
    return bounds


def _values(name: str, graphs: Sequence[OpGraph]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What a limit holds for: the upper end of another device's latency, or a quantity, of each network."""
    target = target_of(name)
    if target is not None:
        predictor = _predictor(target)
        latencies = predictor.graphs(graphs)
        return np.where(_is_known(predictor, latencies), latencies.high_ms, np.inf)
    return np.array([get_quantity(name).graph(graph) for graph in graphs], dtype=np.float64)


def _is_known(predictor: LatencyPredictor, latencies: Latencies) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which latencies may be relied on.

    Raises:
        NoEvidenceError: None.
    """
    table = predictor.table
    is_known_n = ~latencies.extrapolated | (table.provenance.kind != "measured")
    if not is_known_n.any():
        raise NoEvidenceError(
            f"target `{table.name}` was made from {known_networks(table)}: it has no evidence for any of"
            f" {len(is_known_n):,} trained models",
            remedy(table, [BROAD]),
        )
    return is_known_n


def _picked(model: PublishedModel, latencies: Latencies, row: int) -> PickedModel:
    latency = Latency(
        float(latencies.ms[row]),
        float(latencies.low_ms[row]),
        float(latencies.high_ms[row]),
        latencies.kind,
        bool(latencies.extrapolated[row]),
    )
    return PickedModel(model, latency, model.graph.params, model.graph.macs)


def _warnings(predictor: LatencyPredictor, unknown: int) -> list[str]:
    table, stale = predictor.table, staleness(predictor.table)
    found = [f"table `{table.name}` is out of date: {stale}; run `nas latency build` again"] if stale else []
    if unknown:
        found.append(f"{unknown:,} further models are left out: the table has no evidence for networks like them")
    if table.precision != "fp32":
        found.append(
            f"latency is that of {table.precision} networks, accuracy that of the published fp32 weights: what"
            f" computing in {table.precision} costs has to be measured"
        )
    return found
