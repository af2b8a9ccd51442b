"""Quantities: what is known of networks without evaluating them, by name, and computed for whole populations at once.

Ours are below. `register_quantity` adds one for this process, and other packages register theirs as entry points
``nas.quantities``. From then on objectives, limits, records and the report know it by its name.

Legend of array suffixes: n genotypes, c choices, k costs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from latency_tables.predictor import LatencyPredictor
from latency_tables.targets import load_target, target_names
from nas.errors import EvaluationError, NasError
from nas.objectives.units import COUNT, LATENCY, ROUNDS_TO_ONE, SIZE, Measure, three_digits
from nas.records.network import latency_name, target_of
from search_spaces import (
    SOURCE,
    CostTables,
    Genotypes,
    Op,
    OpGraph,
    SearchSpace,
    UnknownNameError,
    population_cost,
    population_peak_memory,
)
from search_spaces.plugins import Registry

Column = npt.NDArray[np.int64] | npt.NDArray[np.float64]
"""One number per genotype, ``[n]``."""

FLOAT_BYTES = 4

_MEASURES: Mapping[str, Measure] = {"": COUNT, "ms": LATENCY, "B": SIZE}


@dataclass(frozen=True)
class Quantity:
    """A number that is known of every network of a space.

    Attributes:
        name: What users type, for example ``peak-memory``.
        unit: Unit of its values: ``ms``, ``B`` (bytes), any other, or nothing for a count.
        description: What it is, in a few words.
        population: Computes it for valid genotypes ``[n, c]`` of a space, ``[n]``.
        graph: Computes it for one op graph; the same number as ``population`` gives.
        is_maximised: Whether more is better. Such a quantity is also a score that ranks untrained networks.
    """

    name: str
    unit: str
    description: str
    population: Callable[[SearchSpace, Genotypes], Column]
    graph: Callable[[OpGraph], float]
    is_maximised: bool = False

    @property
    def key(self) -> str:
        """The name under which an evaluated one is recorded, for example ``peak_memory``."""
        return self.name.replace("-", "_")

    @property
    def measure(self) -> Measure:
        """How its values are written."""
        own = Measure(f"a value such as `5{self.unit}`", {self.unit.lower(): 1.0})
        return _MEASURES.get(self.unit, own)

    def column(self, space: SearchSpace, genotypes: Genotypes) -> Column:
        """The quantity of valid genotypes ``[n, c]``, ``[n]``.

        Raises:
            NasError: A value is not finite.
        """
        values_n = self.population(space, genotypes)
        if not np.isfinite(values_n).all():
            raise NasError(f"quantity `{self.name}` of a network of `{space.name}` is not finite")
        return values_n

    def parse(self, text: str) -> float:
        """A value with its unit, for example ``64MB``; a number without a unit is a count.

        Raises:
            UsageError: It is no positive number, or its unit is another quantity's.
        """
        return self.measure.parse(text)

    def text(self, value: float) -> str:
        """A value for people, for example ``64 MB``, ``12.0M`` or ``3.1 ms``."""
        if self.unit not in ("", "B"):
            return f"{three_digits(value)} {self.unit}"
        gap = " " if self.unit else ""
        for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if abs(value) >= ROUNDS_TO_ONE * size:
                return f"{three_digits(value / size)}{gap}{prefix}{self.unit}"
        return f"{value:g}{gap}{self.unit}"


def quantity_names() -> list[str]:
    """The names of all quantities but the latencies: ours, other packages', those of this process."""
    return QUANTITIES.names()


def find_quantity(name: str) -> Quantity | None:
    """The quantity called ``name``, ``latency:TARGET`` for any target included; None where there is none."""
    target = target_of(name)
    if target:
        return _latency(target)
    return QUANTITIES.find(name)


def get_quantity(name: str) -> Quantity:
    """The quantity called ``name``, see `find_quantity`.

    Raises:
        UnknownNameError: There is none.
    """
    found = find_quantity(name)
    if found is None:
        raise UnknownNameError("quantity", name, [*quantity_names(), latency_name("TARGET")])
    return found


def limit_name(name: str) -> str:
    """The full name of what a limit is on: a quantity, or a device, whose latency is then meant.

    Raises:
        UnknownNameError: It is neither.
    """
    if find_quantity(name) is not None:
        return name
    targets = [info.name for info in target_names()]
    if name.partition("@")[0] not in targets:
        where = f"quantities: {', '.join(quantity_names())}; devices: `nas targets` lists them"
        raise UnknownNameError("quantity or device", name, [*quantity_names(), *targets], where)
    return latency_name(name)


def parse_limit(text: str) -> tuple[str | None, float]:
    """A limit as it is typed: ``12ms`` is one on the target's latency, ``NAME=VALUE`` on a device's or a quantity.

    Returns:
        The device or the quantity, None for the target's latency, and the value in its unit.

    Raises:
        UnknownNameError: There is no such quantity or device.
        UsageError: It has no positive value, or not in a unit of the quantity.
    """
    name, is_named, value = text.rpartition("=")
    full = limit_name(name.strip()) if is_named else None
    value_there = get_quantity(full or latency_name("the target")).parse(value)
    return (target_of(full) or full if full else None), value_there


def register_quantity(quantity: Quantity) -> None:
    """Register a quantity for this process.

    Raises:
        ValueError: Its name is taken.
    """
    if target_of(quantity.name):
        raise ValueError(f"quantity `{quantity.name}` is registered already")
    QUANTITIES.register(quantity.name, quantity)


class _BlockSums:
    """Numbers that are sums over a network's blocks, for populations.

    Args:
        block: Maps a block's operators to k whole numbers.
        width: Number k.
    """

    def __init__(self, block: Callable[[tuple[Op, ...]], tuple[int, ...]], width: int) -> None:
        self._block = block
        self._width = width
        self._tables: WeakKeyDictionary[SearchSpace, CostTables] = WeakKeyDictionary()

    def __call__(self, space: SearchSpace, genotypes: Genotypes) -> npt.NDArray[Any]:
        """The sums ``[k, n]`` of valid genotypes ``[n, c]``."""
        tables = self._tables.get(space)
        if tables is None:
            tables = self._tables[space] = CostTables(space, self._block, self._width, np.int64)
        return tables(genotypes)


def _capacity(params: float, macs: float) -> float:
    return float(np.sqrt(np.float64(params) * np.float64(macs)) / 1e6)


def _capacities(space: SearchSpace, genotypes: Genotypes) -> Column:
    cost = population_cost(space, genotypes)
    capacity_n: Column = np.sqrt(cost.params.astype(np.float64) * cost.macs.astype(np.float64)) / 1e6
    return capacity_n


def _is_layer(op: Op) -> bool:
    return op.macs > 0 and op.params > 0


def _longest_path(ops: tuple[Op, ...]) -> dict[str, int]:
    """The number of layers with weights on the longest path to each operator."""
    longest = {SOURCE: 0}
    for op in ops:
        longest[op.name] = max((longest.get(name, 0) for name in op.inputs), default=0) + _is_layer(op)
    return longest


def _channels(op: Op) -> int:
    return op.output_shape[-1] if op.kind == "linear" else op.output_shape[0]


def _width(graph: OpGraph) -> float:
    layers = [op for op in graph.ops() if _is_layer(op)]
    if not layers:
        raise EvaluationError("the op graph has no convolution and no linear layer")
    return statistics.fmean(_channels(op) for op in layers)


def _stored(ops: tuple[Op, ...]) -> tuple[int]:
    """Stored numbers: parameters, and as many running means and variances as a batch norm has parameters."""
    return (sum(op.params * (2 if op.kind == "batch_norm" else 1) for op in ops),)


_layers = _BlockSums(lambda ops: (_longest_path(ops)[ops[-1].name] if ops else 0,), 1)
_channel_sums = _BlockSums(lambda ops: (sum(map(_channels, filter(_is_layer, ops))), sum(map(_is_layer, ops))), 2)
_stored_numbers = _BlockSums(_stored, 1)


def _mean_channels(space: SearchSpace, genotypes: Genotypes) -> Column:
    channels_n, layers_n = _channel_sums(space, genotypes)
    width_n: Column = channels_n / layers_n
    return width_n


PARAMS = Quantity(
    "params",
    "",
    "parameters",
    lambda space, genotypes: population_cost(space, genotypes).params,
    lambda graph: graph.params,
)
MACS = Quantity(
    "macs",
    "",
    "multiply-accumulates of one image",
    lambda space, genotypes: population_cost(space, genotypes).macs,
    lambda graph: graph.macs,
)
PEAK_MEMORY = Quantity(
    "peak-memory",
    "B",
    "largest memory of activations at once, of one image in fp32, without weights",
    population_peak_memory,
    lambda graph: FLOAT_BYTES * graph.peak_elements,
)
WEIGHT_BYTES = Quantity(
    "weight-bytes",
    "B",
    "stored weights in fp32: parameters and the running means and variances of batch norms",
    lambda space, genotypes: FLOAT_BYTES * _stored_numbers(space, genotypes)[0],
    lambda graph: FLOAT_BYTES * sum(_stored(ops)[0] for _, ops in graph.blocks),
)
CAPACITY = Quantity(
    "capacity",
    "",
    "geometric mean of parameters and MACs, in millions",
    _capacities,
    lambda graph: _capacity(graph.params, graph.macs),
    is_maximised=True,
)
DEPTH = Quantity(
    "depth",
    "",
    "layers with weights on the longest path from input to output",
    lambda space, genotypes: _layers(space, genotypes)[0],
    lambda graph: max(_longest_path(tuple(graph.ops())).values()),
    is_maximised=True,
)
WIDTH = Quantity(
    "width", "", "mean number of output channels of the layers with weights", _mean_channels, _width, is_maximised=True
)

QUANTITIES: Registry[Quantity] = Registry(
    "quantity",
    "nas.quantities",
    {entry.name: entry for entry in (PARAMS, MACS, PEAK_MEMORY, WEIGHT_BYTES, CAPACITY, DEPTH, WIDTH)},
)


@cache
def _latency(target: str) -> Quantity:
    """The predicted latency on a device, as its table gives it; a search asks the devices that it has loaded."""
    return Quantity(
        latency_name(target),
        "ms",
        f"predicted latency on {target}",
        lambda space, genotypes: _predictor(target).population(space, genotypes).ms,
        lambda graph: _predictor(target).graph(graph).ms,
    )


@cache
def _predictor(target: str) -> LatencyPredictor:
    return LatencyPredictor(load_target(target))
