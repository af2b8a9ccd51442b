"""Predicted latency of networks and of populations.

A kernel that the table holds costs its stored median; any other is priced by its class's roofline. A network costs
``scale * sum + overhead``, with the interval of the table's held-out residuals. Of networks that the table has no
evidence for (`latency_tables.evidence`) nothing but a range can be told. Legend of array suffixes: n genotypes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from latency_tables.evidence import Evidence, group_of
from latency_tables.kernels import SMALL, Kernel, base_class, fuse
from latency_tables.runtimes import find_fusion
from latency_tables.table import KernelEntry, LatencyTable, Roofline
from latency_tables.table_validation import Features
from search_spaces.cost import CostTables
from search_spaces.graph import Op, OpGraph
from search_spaces.space import Genotypes, SearchSpace

Milliseconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Latency:
    """The predicted latency of one network, in milliseconds.

    Attributes:
        low_ms: Low end of the interval; high_ms its high end.
        kind: The table's kind: ``measured``, ``calibrated`` or ``transferred``.
        extrapolated: Whether the table has no evidence for such a network; ``ms`` then serves to rank networks alone.
    """

    ms: float
    low_ms: float
    high_ms: float
    kind: str
    extrapolated: bool

    def is_within(self, limit_ms: float) -> bool | None:
        """Whether a limit holds for the upper end; None where nothing is known."""
        return None if self.is_declined else self.high_ms <= limit_ms

    @property
    def is_declined(self) -> bool:
        """Whether not even the interval can be relied on: a measured table has no evidence for such a network.

        That of a calibrated table comes from families of networks that it has not seen, so it holds for more.
        """
        return self.extrapolated and self.kind == "measured"

    def claims(self) -> dict[str, Any]:
        """What may be told of it, ready for JSON: no number that the table has no evidence for."""
        ends = {"low_ms": None, "high_ms": None} if self.is_declined else {}
        return {**vars(self), **({"ms": None} if self.extrapolated else {}), **ends}


@dataclass(frozen=True)
class Latencies:
    """Predicted latencies of a population: milliseconds ``[n]`` each, and ``extrapolated`` flags ``[n]``."""

    ms: Milliseconds
    low_ms: Milliseconds
    high_ms: Milliseconds
    kind: str
    extrapolated: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A kernel's time and interval in milliseconds, before the table's scale.

    Attributes:
        how: ``measured`` (stored in the table), ``interpolated``, ``borrowed`` (another device's price) or
            ``extrapolated``.
    """

    ms: float
    low_ms: float
    high_ms: float
    how: str


@dataclass(frozen=True)
class ClassTime:
    """What the kernels of one class contribute to a network's predicted time.

    Attributes:
        op: Kernel class.
        launches: Number of kernels.
        macs: Multiply-accumulates of the kernels for one image.
        ms: Time of the kernels in the network.
        extrapolated_ms: Time of the kernels without evidence in the table.
        share: Share of the time of all kernels.
    """

    op: str
    launches: int
    macs: int
    ms: float
    extrapolated_ms: float
    share: float


class KernelPrices:
    """The time of every kernel: stored where there is an entry, else by the roofline of its class; never a KeyError.

    Args:
        rooflines: At least that of class ``other``.
        kernels: Stored times.
        bytes_per_element: Size of an activation or weight.
    """

    def __init__(self, rooflines: Iterable[Roofline], kernels: Iterable[KernelEntry], bytes_per_element: int) -> None:
        self._rooflines = {roofline.op: roofline for roofline in rooflines}
        self._medians = {entry.key: entry.median_ms for entry in kernels}
        self._bytes_per_element = bytes_per_element
        self._known: dict[str, KernelTime] = {}

    def __call__(self, kernel: Kernel) -> KernelTime:
        """The time of one kernel."""
        known = self._known.get(kernel.key)
        if known is None:
            known = self._known[kernel.key] = self._price(kernel)
        return known

    def _price(self, kernel: Kernel) -> KernelTime:
        stored = self._medians.get(kernel.key)
        if stored is not None:
            return KernelTime(stored, stored, stored, "measured")
        roofline = self._roofline(kernel)
        features: Features = kernel.features(self._bytes_per_element)
        ms = roofline.milliseconds(features)
        if roofline.op == "other" or not roofline.covers(features):
            how = "extrapolated"
        elif roofline.borrowed_from:
            how = "borrowed"
        else:
            how = "interpolated" if roofline.direct else "extrapolated"
        if how == "interpolated":
            return KernelTime(ms, ms, ms, how)
        return KernelTime(ms, ms * roofline.low, ms * roofline.high, how)

    def _roofline(self, kernel: Kernel) -> Roofline:
        ending, base = SMALL * kernel.is_small(self._bytes_per_element), base_class(kernel.op)
        names = (kernel.op + ending, kernel.op, base + ending, base, "other")
        return next(self._rooflines[name] for name in names if name in self._rooflines)


def kernel_totals(kernels: Iterable[Kernel], prices: KernelPrices) -> tuple[float, ...]:
    """Sums over kernels: ms, low ms, high ms, MACs, high ms of kernels without evidence, and their MACs."""
    times = [(kernel, prices(kernel)) for kernel in kernels]
    unseen = [(kernel, time) for kernel, time in times if time.how == "extrapolated"]
    return (
        sum(time.ms for _, time in times),
        sum(time.low_ms for _, time in times),
        sum(time.high_ms for _, time in times),
        float(sum(kernel.macs for kernel, _ in times)),
        sum(time.high_ms for _, time in unseen),
        float(sum(kernel.macs for kernel, _ in unseen)),
    )


class LatencyPredictor:
    """Prices networks by one table.

    Args:
        table: A checked latency table.
    """

    def __init__(self, table: LatencyTable) -> None:
        self.table = table
        self.evidence = Evidence.of(table)
        self._fusion = find_fusion(table.runtime.fusion)
        self.kernel = KernelPrices(table.rooflines, table.kernels, table.bytes_per_element)
        self._cost_tables: WeakKeyDictionary[SearchSpace, CostTables] = WeakKeyDictionary()

    def graph(self, graph: OpGraph, group: str = "") -> Latency:
        """The latency of one network.

        Args:
            graph: The network.
            group: The group of networks that it is one of (`latency_tables.evidence.group_of`); empty where none is.
        """
        return self._latency(np.sum([self._block(ops) for _, ops in graph.blocks], axis=0), group)

    def kernels(self, kernels: Iterable[Kernel], group: str = "") -> Latency:
        """The latency of a network that launches these kernels; see `graph`."""
        return self._latency(np.array(kernel_totals(kernels, self.kernel)), group)

    def _latency(self, totals: npt.NDArray[np.float64], group: str) -> Latency:
        ms, low, high, outside = self._network(totals[:, None], group)
        return Latency(float(ms[0]), float(low[0]), float(high[0]), self.table.provenance.kind, bool(outside[0]))

    def graphs(self, graphs: Sequence[OpGraph]) -> Latencies:
        """The latencies of many networks; blocks whose operators are one object in several are priced once.

        Where tensors stay in integers across blocks each network is priced as a whole.
        """
        known: dict[int, Sequence[float]] = {}
        totals = np.zeros((6, len(graphs)))
        for number, graph in enumerate(graphs):
            if self._fusion.is_int8:
                totals[:, number] = self._block(tuple(graph.ops()))
                continue
            for _, ops in graph.blocks:
                if id(ops) not in known:
                    known[id(ops)] = self._block(ops)
                totals[:, number] += known[id(ops)]
        ms, low, high, outside = self._network(totals, "")
        return Latencies(ms, low, high, self.table.provenance.kind, outside)

    def breakdown(self, graph: OpGraph) -> tuple[ClassTime, ...]:
        """The network's time by kernel class, the largest share first; the table's overhead is in none of them."""
        by_class: dict[str, list[tuple[Kernel, KernelTime]]] = {}
        for _, ops in graph.blocks:
            for kernel in fuse(ops, self._fusion, self.table.batch):
                by_class.setdefault(kernel.op, []).append((kernel, self.kernel(kernel)))
        total = sum(time.ms for members in by_class.values() for _, time in members) or 1.0
        scale = self.table.scale
        classes = [
            ClassTime(
                op=op,
                launches=len(members),
                macs=sum(kernel.macs for kernel, _ in members) // self.table.batch,
                ms=scale * sum(time.ms for _, time in members),
                extrapolated_ms=scale * sum(time.ms for _, time in members if time.how == "extrapolated"),
                share=sum(time.ms for _, time in members) / total,
            )
            for op, members in by_class.items()
        ]
        return tuple(sorted(classes, key=lambda entry: -entry.ms))

    def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
        """The latencies of valid genotypes ``[n, c]``; equal to `graph` of each lowered network."""
        tables = self._cost_tables.get(space)
        if tables is None:
            tables = self._cost_tables[space] = CostTables(space, self._block, width=6, dtype=np.float64)
        ms, low, high, outside = self._network(tables(genotypes), group_of(space))
        return Latencies(ms, low, high, self.table.provenance.kind, outside)

    def _block(self, ops: tuple[Op, ...]) -> Sequence[float]:
        return kernel_totals(fuse(ops, self._fusion, self.table.batch), self.kernel)

    def _network(
        self, totals: npt.NDArray[np.float64], group: str
    ) -> tuple[Milliseconds, Milliseconds, Milliseconds, npt.NDArray[np.bool_]]:
        scale, overhead, interval = self.table.scale, self.table.overhead_ms, self.evidence.interval(group)
        ms, low, high = scale * totals[:3] + overhead
        _, _, high_sum, macs, unseen_high, unseen_macs = totals
        macs, unseen_macs = macs / self.table.batch, unseen_macs / self.table.batch  # of one image, as in validation
        outside = self.evidence.is_outside(group, high_sum, unseen_high, macs, unseen_macs)
        return ms, low * (1 + min(interval.low, 0.0)), high * (1 + max(interval.high, 0.0)), outside
