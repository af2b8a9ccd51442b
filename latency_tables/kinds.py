"""Kinds of networks: what a table may be believed for is said for each apart."""

from __future__ import annotations

from collections.abc import Mapping

from latency_tables.kernels import base_class
from latency_tables.table import LatencyTable
from latency_tables.table_validation import Features

CONVOLUTIONAL, PLAIN, HYBRID = "convolutional", "plain transformer", "hybrid"
KINDS = (CONVOLUTIONAL, PLAIN, HYBRID)
"""Without attention; ViT, DeiT, BEiT and Swin; attention among convolutions."""

_PLURALS = {CONVOLUTIONAL: "CNNs", PLAIN: "ViTs", HYBRID: "hybrids"}
_CONVOLUTIONS = frozenset({"conv", "pointwise_conv"})
_ATTENTION = frozenset({"matmul", "softmax"})
_AROUND_ATTENTION = _ATTENTION | {"layer_norm", "activation.gelu"}
_MOST_CONVOLUTION = 0.15
"""Share of MACs in convolutions that a plain transformer's patch embedding may have."""


def network_kind(features: Mapping[str, Features]) -> str:
    """The kind of a network, from its features summed by kernel class."""
    kinds = {base_class(op) for op in features}
    if not kinds & _ATTENTION:
        return CONVOLUTIONAL
    total = sum(macs for _, macs, _, _ in features.values())
    convolution = sum(macs for op, (_, macs, _, _) in features.items() if base_class(op) in _CONVOLUTIONS)
    is_plain = "depthwise_conv" not in kinds and convolution <= _MOST_CONVOLUTION * total
    return PLAIN if is_plain else HYBRID


THE_LINE = "ranking, by a line through MACs"
BELIEVED_WITHIN = 0.2
"""Mean error up to which a table may be believed for a kind of networks."""
LEAST_NETWORKS = 2


def believed_kinds(table: LatencyTable) -> tuple[str, ...]:
    """The kinds of networks that a table predicts well, each family by a fit that has not seen it.

    What attention is made of has to be inside its evidence where the kind has it. A straight line through MACs knows no
    kind from another, so that it is believed for none.
    """
    if is_line(table):
        return ()
    knows_attention = all(roofline.direct for roofline in table.rooflines if roofline.op in _AROUND_ATTENTION)
    return tuple(
        entry.kind
        for entry in table.validation.by_kind
        if entry.networks >= LEAST_NETWORKS
        and entry.mean_error <= BELIEVED_WITHIN
        and (knows_attention or entry.kind == CONVOLUTIONAL)
    )


def is_line(table: LatencyTable) -> bool:
    """Whether a table is a straight line through MACs: no rate of its own tells one kernel class from another."""
    rates = {(r.ms_per_million_macs, r.ms_per_megabyte_read, r.launch_us) for r in table.rooflines}
    return len(rates) == 1 and table.rooflines[0].ms_per_megabyte_read == 0


def describe_belief(table: LatencyTable) -> str:
    """For people: the kinds of networks that a table may be believed for, with the error of each."""
    if table.provenance.kind != "calibrated":
        return "the networks it was measured on" if table.provenance.kind == "measured" else ""
    if is_line(table):
        return THE_LINE
    believed = believed_kinds(table)
    parts = [
        f"{_PLURALS[entry.kind]} {entry.mean_error:.0%}" for entry in table.validation.by_kind if entry.kind in believed
    ]
    if any(roofline.borrowed_from for roofline in table.rooflines):
        parts.append("attention borrowed")
    return ", ".join(parts) or "ranking alone"
