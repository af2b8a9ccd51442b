"""Bits per layer as an integer program: one precision for each layer, the least loss within limits.

Latency, bytes and, nearly, divergence add up over layers, so this is a multiple-choice knapsack, which
`scipy.optimize.milp` solves exactly. A quantiser serves all layers that read its tensor and is paid for once.

Legend of array suffixes: v variables, one per layer and precision, then one per quantised tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from latency_tables.onnx_quantised import Precision
from nas.errors import UsageError

TIES = 1e-9
"""Share of the largest loss that all of the time and bytes together may weigh, so that ties go to what is cheaper."""
FRONT = 16
"""Budgets between the smallest and the largest cost that a front is made of."""
_QUANTISED = ("int8", "int8-dynamic")


@dataclass(frozen=True)
class Option:
    """A layer in one precision.

    Attributes:
        loss: Divergence from fp32 that it adds, in nats.
        ms: Time of its kernel.
        size: Bytes of its weights.
    """

    precision: Precision
    loss: float
    ms: float
    size: float


@dataclass(frozen=True)
class LayerOptions:
    """A layer and what it can compute in.

    Attributes:
        source: Name of the tensor that it reads.
        quantiser_ms: Time of quantising that tensor.
    """

    name: str
    options: tuple[Option, ...]
    source: str = ""
    quantiser_ms: float = 0.0


@dataclass(frozen=True)
class Assignment:
    """Layers to precisions, and what that is predicted to cost.

    Attributes:
        loss: Sum of the losses, in nats.
        ms: Time of all layers and quantisers.
        size: Bytes of all weights.
    """

    precisions: dict[str, Precision] = field(hash=False)
    loss: float
    ms: float
    size: float


def assign(
    layers: Sequence[LayerOptions], limit_ms: float | None = None, limit_bytes: float | None = None
) -> Assignment | None:
    """The assignment that loses least within the limits; None where nothing is within them.

    Args:
        layers: The layers.
        limit_ms: Most that all layers and quantisers may take together.
        limit_bytes: Most that all weights may take together.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    options = [option for layer in layers for option in layer.options]
    sources = sorted({layer.source for layer in layers if layer.source and layer.quantiser_ms > 0})
    count, width = len(options), len(options) + len(sources)
    quantiser_ms = {layer.source: layer.quantiser_ms for layer in layers}
    ms_v = np.array([option.ms for option in options] + [quantiser_ms[source] for source in sources])
    size_v = np.array([option.size for option in options] + [0.0] * len(sources))
    loss_v = np.array([option.loss for option in options] + [0.0] * len(sources))
    rows, low, high = [], [], []

    def constrain(row_v: npt.NDArray[np.float64], least: float, most: float) -> None:
        rows.append(row_v)
        low.append(least)
        high.append(most)

    start = 0
    for layer in layers:
        row_v = np.zeros(width)
        row_v[start : start + len(layer.options)] = 1.0
        constrain(row_v, 1.0, 1.0)
        for place, option in enumerate(layer.options):
            if option.precision in _QUANTISED and layer.source in sources:
                row_v = np.zeros(width)
                row_v[start + place] = 1.0
                row_v[count + sources.index(layer.source)] = -1.0
                constrain(row_v, -np.inf, 0.0)
        start += len(layer.options)
    for costs_v, limit in ((ms_v, limit_ms), (size_v, limit_bytes)):
        if limit is not None:
            constrain(costs_v / max(limit, 1e-12), -np.inf, 1.0)
    scale = max(float(loss_v.max()), 1e-12)
    cheap_v = ms_v / max(float(ms_v.sum()), 1e-12) + size_v / max(float(size_v.sum()), 1e-12)
    solved = milp(
        loss_v / scale + TIES * cheap_v,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
        integrality=np.ones(width),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if solved.x is None:
        return None
    chosen_v = np.round(solved.x)
    picked = iter(chosen_v[:count])
    precisions = {layer.name: option.precision for layer in layers for option in layer.options if next(picked) > 0.5}
    return Assignment(precisions, float(loss_v @ chosen_v), float(ms_v @ chosen_v), float(size_v @ chosen_v))


def assignments(
    layers: Sequence[LayerOptions],
    limit_ms: float | None = None,
    limit_bytes: float | None = None,
    count: int = FRONT,
    by_time: bool = True,
) -> list[Assignment]:
    """A front of assignments, the one that loses least within the limits first, then ever cheaper ones.

    Budgets fall evenly from the cost of that one to the least that is possible: of time, or of bytes where no layer
    gains time or ``by_time`` is off.

    Raises:
        UsageError: Nothing is within the limits.
    """
    best = assign(layers, limit_ms, limit_bytes)
    if best is None:
        least_ms, least_size = _least(layers, "ms"), _least(layers, "size")
        raise UsageError(
            "no precisions are within the limits: expected at least"
            f" {least_ms:.3g} ms in weighted layers and {least_size / 1e6:.3g} MB of weights",
            "choose wider limits, or a smaller network",
        )
    by_time = by_time and any(option.ms < layer.options[0].ms for layer in layers for option in layer.options)
    least, most = (_least(layers, "ms"), best.ms) if by_time else (_least(layers, "size"), best.size)
    found = {tuple(best.precisions.items()): best}
    for budget in np.linspace(most, least, count)[1:]:
        limits = (budget, limit_bytes) if by_time else (limit_ms, budget)
        other = assign(layers, *limits)
        if other is not None:
            found.setdefault(tuple(other.precisions.items()), other)
    return list(found.values())


def _least(layers: Sequence[LayerOptions], what: str) -> float:
    """The least that all layers can cost; of time with the quantisers of the tensors that need them."""
    if what == "size":
        return sum(min(option.size for option in layer.options) for layer in layers)
    readers: dict[str, list[LayerOptions]] = {}
    for layer in layers:
        readers.setdefault(layer.source or layer.name, []).append(layer)
    total = 0.0
    for group in readers.values():
        floats = [[option.ms for option in layer.options if option.precision not in _QUANTISED] for layer in group]
        quantised = group[0].quantiser_ms + sum(min(option.ms for option in layer.options) for layer in group)
        total += min([quantised] + ([sum(map(min, floats))] if all(floats) else []))
    return total
