"""Predicted latency of named networks, with what it rests on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from latency_tables.predictor import ClassTime, Latency, LatencyPredictor
from nas.networks.named import NamedNetwork
from search_spaces.graph import OpGraph

LEAST_TOLD = 0.005
"""Share of a network's time without evidence from which on people are told of it: what rounds to 1 %."""


@dataclass(frozen=True)
class Prediction:
    """What a table says about one network.

    Attributes:
        params: Learned numbers.
        macs: Multiply-accumulates of one image.
        classes: The predicted time by kernel class, the largest first.
        notes: What the reader of the numbers should know, one sentence each.
    """

    network: str
    input_shape: tuple[int, int, int]
    latency: Latency
    params: int
    macs: int
    classes: tuple[ClassTime, ...]
    notes: tuple[str, ...] = ()

    @property
    def extrapolated_classes(self) -> list[ClassTime]:
        """The classes with kernels that the table has no evidence for, the longest time first."""
        found = [entry for entry in self.classes if entry.extrapolated_ms > 0]
        return sorted(found, key=lambda entry: -entry.extrapolated_ms)

    @property
    def extrapolated_share(self) -> float:
        """Share of the kernels' time that the table has no evidence for."""
        total = sum(entry.ms for entry in self.classes)
        return sum(entry.extrapolated_ms for entry in self.classes) / total if total else 0.0

    def describe_extrapolation(self) -> str:
        """For people: the share of time, and the classes behind it; empty where it rounds to nothing."""
        if self.extrapolated_share < LEAST_TOLD:
            return ""
        names = [entry.op for entry in self.extrapolated_classes]
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        return f"{self.extrapolated_share:.0%}: {listed}"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "network": self.network,
            "input_shape": list(self.input_shape),
            **self.latency.claims(),
            "extrapolated_share": self.extrapolated_share,
            "extrapolated_classes": [entry.op for entry in self.extrapolated_classes],
            "params": self.params,
            "macs": self.macs,
            "kernels": [] if self.latency.is_declined else [asdict(entry) for entry in self.classes],
            "notes": list(self.notes),
        }


def predict_network(predictor: LatencyPredictor, network: NamedNetwork) -> Prediction:
    """The predicted latency of one network.

    Raises:
        LatencyError: The network cannot be traced.
    """
    prediction = predict_graph(predictor, network.name, network.input_shape, network.graph(), network.group)
    notes, precision = network.notes, predictor.table.precision
    if network.precision not in ("fp32", precision):
        notes += (f"it computes in {network.precision}; predicted is its latency in {precision}, as the table has it",)
    return replace(prediction, notes=notes)


def predict_graph(
    predictor: LatencyPredictor, name: str, input_shape: tuple[int, int, int], graph: OpGraph, group: str = ""
) -> Prediction:
    """The predicted latency of the network called ``name`` with this op graph, one of ``group`` (`NamedNetwork`)."""
    latency, classes = predictor.graph(graph, group), predictor.breakdown(graph)
    return Prediction(name, input_shape, latency, graph.params, graph.macs, classes)
