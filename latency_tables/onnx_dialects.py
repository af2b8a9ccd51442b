"""Operators of quantised and of runtime-optimised ONNX files, written with the standard's float operators.

Quantised operators become dequantise, operator, quantise (the QDQ form of the same network), fused ones the operators
that were fused. Only what can be written exactly is known here; every other operator of another domain is refused by
name. Sources: the operator documents of ONNX (``Operators.md``) and of ONNX Runtime (``ContribOperators.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from latency_tables.onnx_model import OnnxError, attribute, node_name, operator_name
from search_spaces.graph import Shape

OPSET = 23
"""Version of the standard's operators that are written here."""

STANDARD = ("", "ai.onnx")
"""Names of the standard's domain."""

_RUNTIME = "com.microsoft"
_ACTIVATIONS = frozenset("Relu Tanh Sigmoid LeakyRelu Clip HardSigmoid HardSwish Elu Softplus Softsign".split())


class Rewriting:
    """One node on its way to standard operators.

    Args:
        node: The node.
        shape: Gives the shape of a tensor by name.
    """

    def __init__(self, node: Any, shape: Callable[[str], Shape]) -> None:
        self.node, self.shape = node, shape
        self.written: list[Any] = []

    def input(self, position: int) -> str:
        """Name of an input, empty where it is left out."""
        return str(self.node.input[position]) if position < len(self.node.input) else ""

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute of the node."""
        return attribute(self.node, name, default)

    def add(self, operator: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> str:
        """Append an operator; gives the name of its first output."""
        from onnx import helper

        name = f"{self.node.output[0]}.{len(self.written)}"
        names = [name, *(f"{name}.{position}" for position in range(1, outputs))]
        self.written.append(helper.make_node(operator, list(inputs), names, name=node_name(self.node), **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Numbers of NumPy as a constant."""
        from onnx import numpy_helper

        return self.add("Constant", [], value=numpy_helper.from_array(np.asarray(value)))

    def plain(self, position: int) -> str:
        """An input, dequantised."""
        return self.add("DequantizeLinear", [self.input(position)]) if self.input(position) else ""

    def finish(self, result: str, position: int = 0) -> None:
        """Make ``result`` an output of the node."""
        from onnx import helper

        if position == 0 and self.written[-1].output[0] == result:
            self.written[-1].output[0] = self.node.output[0]
        elif position < len(self.node.output) and self.node.output[position]:
            self.written.append(helper.make_node("Identity", [result], [self.node.output[position]]))

    def refuse(self, found: str) -> OnnxError:
        """The error for a form of the operator that is not known here."""
        return refused(self.node, f" with {found}")


def rewrite(node: Any, is_standard: bool, shape: Callable[[str], Shape]) -> list[Any] | None:
    """The standard's float operators that compute what ``node`` does; None for one that is such an operator.

    Args:
        node: A node of a model.
        is_standard: Whether the standard has this operator in the version that the model names.
        shape: Gives the shape of a tensor by name.

    Raises:
        OnnxError: The operator is of another domain and not known here.
    """
    if is_standard and node.op_type not in _STANDARD_RULES:
        return None
    rule = (_STANDARD_RULES | _RUNTIME_RULES).get(node.op_type)
    if rule is None or node.domain not in (*STANDARD, _RUNTIME):
        raise refused(node)
    rewriting = Rewriting(node, shape)
    rule(rewriting)
    return rewriting.written


def refused(node: Any, found: str = "") -> OnnxError:
    """The error for an operator whose multiply-accumulates nobody here can count."""
    hint = "export the network to ONNX again with standard operators"
    if node.domain.startswith("com.m"):
        hint = "name the file from before ONNX Runtime optimised it, or save it at level ORT_ENABLE_BASIC"
    return OnnxError(
        f"operator `{operator_name(node)}` (node `{node_name(node)}`){found} may hold multiply-accumulates that latency"
        " tables do not count, expected common operators of ONNX",
        hint,
    )


def _kept(rewriting: Rewriting, *names: str) -> dict[str, Any]:
    found = {name: rewriting.attribute(name, None) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _activate(rewriting: Rewriting, result: str) -> str:
    name = rewriting.attribute("activation", b"").decode()
    if not name:
        return result
    if name not in _ACTIVATIONS:
        raise rewriting.refuse(f"activation {name}")
    bounds = rewriting.attribute("activation_params", []) if name == "Clip" else []
    return rewriting.add(name, [result, *(rewriting.constant(np.float32(bound)) for bound in bounds)])


_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _convolution(weight: int, bias: int | None = None, is_quantised: bool = True) -> Callable[[Rewriting], None]:
    def rule(rewriting: Rewriting) -> None:
        if rewriting.attribute("channels_last", 0):
            raise rewriting.refuse("channels last")
        take = rewriting.plain if is_quantised else rewriting.input
        factors = [take(0), take(weight), *([take(bias)] if bias is not None else [])]
        result = rewriting.add("Conv", factors, **_kept(rewriting, *_WINDOW))
        if not is_quantised and rewriting.input(3):
            result = rewriting.add("Add", [result, rewriting.input(3)])
        rewriting.finish(_activate(rewriting, result))

    return rule


def _quantised_product(first: int, second: int, bias: int | None = None) -> Callable[[Rewriting], None]:
    def rule(rewriting: Rewriting) -> None:
        result = rewriting.add("MatMul", [rewriting.plain(first), rewriting.plain(second)])
        if bias is not None and rewriting.input(bias):
            result = rewriting.add("Add", [result, rewriting.input(bias)])
        rewriting.finish(result)

    return rule


def _quantised_gemm(rewriting: Rewriting) -> None:
    factors = [rewriting.plain(position) for position in (0, 3, 6)]
    rewriting.finish(rewriting.add("Gemm", factors, **_kept(rewriting, "transA", "transB")))


def _gemm(rewriting: Rewriting) -> None:
    factors = [rewriting.input(position) for position in range(3)]
    result = rewriting.add("Gemm", factors, **_kept(rewriting, "alpha", "beta", "transA", "transB"))
    rewriting.finish(_activate(rewriting, result))


def _product(rewriting: Rewriting) -> None:
    if rewriting.attribute("transBatchA", 0) or rewriting.attribute("transBatchB", 0):
        raise rewriting.refuse("a transposed batch")
    factors = []
    for position, name in enumerate(("transA", "transB")):
        factor = rewriting.input(position)
        rank = len(rewriting.shape(factor))
        if rewriting.attribute(name, 0) and rank > 1:
            factor = rewriting.add("Transpose", [factor], perm=[*range(rank - 2), rank - 1, rank - 2])
        factors.append(factor)
    rewriting.finish(rewriting.add("MatMul", factors))


def _elementwise(operator: str, *positions: int, kept: Sequence[str] = ()) -> Callable[[Rewriting], None]:
    def rule(rewriting: Rewriting) -> None:
        if rewriting.attribute("channels_last", 0):
            raise rewriting.refuse("channels last")
        inputs = [rewriting.plain(position) for position in positions]
        rewriting.finish(rewriting.add(operator, inputs, **_kept(rewriting, *kept)))

    return rule


def _quantised_concat(rewriting: Rewriting) -> None:
    parts = [rewriting.plain(position) for position in range(2, len(rewriting.node.input), 3)]
    rewriting.finish(rewriting.add("Concat", parts, axis=rewriting.attribute("axis", 0)))


def _quantised_where(rewriting: Rewriting) -> None:
    rewriting.finish(rewriting.add("Where", [rewriting.input(0), rewriting.plain(1), rewriting.plain(4)]))


def _gelu(rewriting: Rewriting) -> None:
    source = rewriting.input(0)
    if rewriting.input(1):
        source = rewriting.add("Add", [source, rewriting.input(1)])
    rewriting.finish(rewriting.add("Gelu", [source]))


def _norm(operator: str) -> Callable[[Rewriting], None]:
    def rule(rewriting: Rewriting) -> None:
        inputs = [rewriting.input(position) for position in range(2 if operator == "RMSNormalization" else 3)]
        rewriting.finish(rewriting.add(operator, inputs, axis=rewriting.attribute("axis", -1)))

    return rule


def _skip_norm(operator: str, bias: int) -> Callable[[Rewriting], None]:
    def rule(rewriting: Rewriting) -> None:
        total = rewriting.add("Add", [rewriting.input(0), rewriting.input(1)])
        if rewriting.input(bias):
            total = rewriting.add("Add", [total, rewriting.input(bias)])
        factors = [rewriting.input(position) for position in range(2, bias)]
        rewriting.finish(rewriting.add(operator, [total, *factors]))
        rewriting.finish(total, 3)

    return rule


def _bias_softmax(rewriting: Rewriting) -> None:
    total = rewriting.add("Add", [rewriting.input(0), rewriting.input(1)])
    rewriting.finish(rewriting.add("Softmax", [total], axis=rewriting.attribute("axis", 1)))


def _packed_attention(bias: int, mask: int | None, refused_inputs: Sequence[int], is_quantised: bool) -> Any:
    """Attention that makes queries, keys and values of one input."""

    def rule(rewriting: Rewriting) -> None:
        take = rewriting.plain if is_quantised else rewriting.input
        if not rewriting.input(1) or any(rewriting.input(position) for position in refused_inputs):
            raise rewriting.refuse("inputs beside an image's tokens")
        heads = rewriting.attribute("num_heads", 1)
        width = rewriting.shape(rewriting.input(1))[1]
        sizes = rewriting.attribute("qkv_hidden_sizes", None) or [width // 3] * 3
        result = rewriting.add("MatMul", [take(0), take(1)])
        if rewriting.input(bias):
            result = rewriting.add("Add", [result, rewriting.input(bias)])
        factors = _split(rewriting, result, sizes)
        factors += [rewriting.input(mask)] if mask is not None and rewriting.input(mask) else []
        rewriting.finish(rewriting.add("Attention", factors, q_num_heads=heads, kv_num_heads=heads))

    return rule


def _attention(rewriting: Rewriting) -> None:
    """Attention of queries, keys and values of shape ``(batch, tokens, heads * width)``, projected before."""
    factors = [rewriting.input(position) for position in range(3)]
    if not all(factors) or any(len(rewriting.shape(factor)) != 3 for factor in factors):
        raise rewriting.refuse("packed queries, keys and values")
    if any(rewriting.input(position) for position in (4, 6, 7, 8, 9)):
        raise rewriting.refuse("inputs beside an image's tokens")
    if rewriting.input(3):
        widths = [rewriting.shape(factor)[-1] for factor in factors]
        biases = _split(rewriting, rewriting.input(3), widths, axis=0)
        factors = [rewriting.add("Add", pair) for pair in zip(factors, biases, strict=True)]
    factors += [rewriting.input(5)] if rewriting.input(5) else []
    heads = rewriting.attribute("num_heads", 1)
    rewriting.finish(rewriting.add("Attention", factors, q_num_heads=heads, kv_num_heads=heads))


def _split(rewriting: Rewriting, source: str, sizes: Sequence[int], axis: int = -1) -> list[str]:
    lengths = rewriting.constant(np.asarray(sizes, dtype=np.int64))
    first = rewriting.add("Split", [source, lengths], outputs=len(sizes), axis=axis)
    return [first, *(f"{first}.{position}" for position in range(1, len(sizes)))]


_STANDARD_RULES: dict[str, Callable[[Rewriting], None]] = {
    "QLinearConv": _convolution(weight=3, bias=8),
    "ConvInteger": _convolution(weight=1),
    "QLinearMatMul": _quantised_product(0, 3),
    "MatMulInteger": _quantised_product(0, 1),
    "SimplifiedLayerNormalization": _norm("RMSNormalization"),  # ONNX Runtime writes it into the standard's domain
}
_RUNTIME_RULES: dict[str, Callable[[Rewriting], None]] = {
    "Attention": _packed_attention(bias=2, mask=5, refused_inputs=(3, 4, 6), is_quantised=False),
    "BiasGelu": _gelu,
    "BiasSoftmax": _bias_softmax,
    "DequantizeLinear": lambda rewriting: rewriting.finish(rewriting.plain(0)),
    "DynamicQuantizeMatMul": _quantised_product(0, 1, bias=4),
    "FastGelu": _gelu,
    "FusedConv": _convolution(weight=1, bias=2, is_quantised=False),
    "FusedGemm": _gemm,
    "FusedMatMul": _product,
    "Gelu": _gelu,
    "LayerNormalization": _norm("LayerNormalization"),  # in models of a version that has none
    "MatMulIntegerToFloat": _quantised_product(0, 1, bias=6),
    "MultiHeadAttention": _attention,
    "QAttention": _packed_attention(bias=2, mask=None, refused_inputs=(5, 8), is_quantised=True),
    "QGemm": _quantised_gemm,
    "QLinearAdd": _elementwise("Add", 0, 3),
    "QLinearAveragePool": _elementwise("AveragePool", 0, kept=(*_WINDOW, "ceil_mode")),
    "QLinearConcat": _quantised_concat,
    "QLinearGlobalAveragePool": _elementwise("GlobalAveragePool", 0),
    "QLinearLeakyRelu": _elementwise("LeakyRelu", 0),
    "QLinearMul": _elementwise("Mul", 0, 3),
    "QLinearSigmoid": _elementwise("Sigmoid", 0),
    "QLinearSoftmax": _elementwise("Softmax", 0, kept=("axis",)),
    "QLinearWhere": _quantised_where,
    "QuantizeLinear": lambda rewriting: rewriting.finish(rewriting.add("QuantizeLinear", [rewriting.input(0)])),
    "QuickGelu": _gelu,
    "SkipLayerNormalization": _skip_norm("LayerNormalization", bias=4),
    "SkipSimplifiedLayerNormalization": _skip_norm("RMSNormalization", bias=3),
    "TransposeMatMul": _product,
}
