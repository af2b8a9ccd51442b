"""What a calibration can tell apart: the free numbers of a form, and the forms that are tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from latency_tables.kernels import base_class
from latency_tables.table_validation import Features

MACS: Features = (0.0, 1.0, 0.0, 0.0)
BYTES: Features = (0.0, 0.0, 1.0, 1.0)
LARGE_WINDOWS = "depthwise_conv.large"


@dataclass(frozen=True)
class Term:
    """One free number of a form.

    Attributes:
        classes: Kernel classes, or operator kinds behind them, that share it; None for all.
        features: How much of each feature it multiplies; None for a constant per inference.
    """

    name: str
    classes: frozenset[str] | None
    features: Features | None

    def prices(self, op: str) -> bool:
        """Whether kernels of this class share the number."""
        return self.classes is None or op in self.classes or base_class(op) in self.classes


PER_INFERENCE = Term("per inference", None, None)
ALL_MACS = Term("MACs", None, MACS)
ALL_BYTES = Term("bytes", None, BYTES)
LARGE_MACS = Term("MACs of large depthwise windows", frozenset({LARGE_WINDOWS}), MACS)
DEPTHWISE_MACS = Term("depthwise MACs", frozenset({"depthwise_conv", LARGE_WINDOWS}), MACS)
POINTWISE_MACS = Term("pointwise MACs", frozenset({"pointwise_conv", "linear", "matmul", "other"}), MACS)
WINDOW_MACS = Term("MACs of larger windows", frozenset({"conv"}), MACS)
GROUPED_MACS = Term("MACs of grouped convolutions", frozenset({"conv.grouped"}), MACS)
ATTENTION_BYTES = Term(
    "bytes of softmax, norms over channels, smooth activations and transposes",
    frozenset(
        "softmax layer_norm group_norm activation.gelu activation.silu reshape.transpose reshape.roll".split(),
    ),
    BYTES,
)
PRODUCT_BYTES = Term("bytes of softmax and of products of activations", frozenset({"matmul", "softmax"}), BYTES)

Form = tuple[Term, ...]

MAC_LINE: Form = (PER_INFERENCE, ALL_MACS)
"""``a + b * MACs``: what every other form has to beat on families that it has not seen."""

FORMS: Mapping[str, Form] = {
    "line": MAC_LINE,
    "roofline": (PER_INFERENCE, ALL_MACS, ALL_BYTES),
    "roofline, large windows": (PER_INFERENCE, ALL_MACS, ALL_BYTES, LARGE_MACS),
    "roofline, depthwise": (PER_INFERENCE, ALL_MACS, ALL_BYTES, DEPTHWISE_MACS),
    "roofline, depthwise, large windows": (PER_INFERENCE, ALL_MACS, ALL_BYTES, DEPTHWISE_MACS, LARGE_MACS),
    "roofline, windows apart": (PER_INFERENCE, POINTWISE_MACS, WINDOW_MACS, ALL_BYTES),
    "roofline, attention apart": (PER_INFERENCE, ALL_MACS, ALL_BYTES, PRODUCT_BYTES),
    "roofline, depthwise, attention apart": (PER_INFERENCE, ALL_MACS, ALL_BYTES, DEPTHWISE_MACS, PRODUCT_BYTES),
    "roofline, kernels apart": (
        PER_INFERENCE,
        POINTWISE_MACS,
        WINDOW_MACS,
        GROUPED_MACS,
        DEPTHWISE_MACS,
        ALL_BYTES,
        ATTENTION_BYTES,
    ),
}
"""Candidates, written down with an eye on the errors over all shipped devices. Which one a device gets is not decided
by its own errors: see `latency_tables.calibration_form`."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "attention": ("matmul", "softmax"),
    "norms": ("layer_norm", "group_norm"),
    "smooth activations": ("activation.gelu", "activation.silu", "activation.sigmoid", "activation.tanh"),
    "moves": ("reshape", "concatenate"),
    "large windows": (LARGE_WINDOWS,),
}
"""Classes that mobile networks hold together; how far their cost is known is asked for each group as a whole."""
