"""The op graph of an ONNX file: the same operators as `latency_tables.trace` finds in the module that was exported.

Only the structure is needed. Weights in files of their own are never opened; those inside the ONNX file are dropped as
soon as it has been parsed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from latency_tables.onnx_dialects import refused
from latency_tables.onnx_folding import FoldedGraph, fold
from latency_tables.onnx_model import OnnxError, attribute, first_line, load_model
from latency_tables.onnx_patterns import Piece, collapse
from latency_tables.trace import einsum_macs, trimmed
from search_spaces.graph import SOURCE, Op, OpGraph, Shape

_ACTIVATIONS = {
    "Relu": "relu",
    "HardSwish": "hard_swish",
    "HardSigmoid": "hard_sigmoid",
    "Gelu": "gelu",
    "Silu": "silu",
    "Swish": "silu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
}
_ACTIVATIONS |= {
    name: name.lower()
    for name in "Elu Selu Mish Softplus Softsign Erf Exp Log Sqrt Reciprocal Pow Abs Neg Sign Sin Cos Floor Round Not"
    " CumSum".split()
}
_NORMS = {
    "BatchNormalization": "batch_norm",
    "InstanceNormalization": "group_norm",
    "GroupNormalization": "group_norm",
    "LayerNormalization": "layer_norm",
    "RMSNormalization": "layer_norm",
    "LpNormalization": "layer_norm",
}
_SUMS = frozenset(("Add", "Sub", "Sum", "Max", "Min", "Where", "Equal", "Greater", "Less", "And", "Or"))
_PRODUCTS = frozenset(("Mul", "Div", "Mod"))
_POOLS = frozenset("GlobalAveragePool GlobalMaxPool AveragePool MaxPool LpPool ReduceMean ReduceMax ReduceMin".split())
_POOLS |= frozenset("ReduceSum ReduceL1 ReduceL2 ReduceProd ReduceLogSumExp ReduceSumSquare ArgMax".split())
_MOVES = {
    "Transpose": "transpose",
    "DepthToSpace": "transpose",
    "SpaceToDepth": "transpose",
    "Split": "split",
    "Slice": "split",
    "Expand": "copy",
    "Tile": "copy",
    "Gather": "gather",
    "GatherND": "gather",
    "GatherElements": "gather",
    "TopK": "gather",
    "Pad": "pad",
    "Resize": "resize",
    "Upsample": "resize",
}
_VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))
_OTHERS = frozenset(
    "Acos Acosh ArgMin Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu"
    " CenterCropPad Col2Im Compress Cosh CumProd EyeLike GlobalLpPool GreaterOrEqual GridSample Hardmax IsInf"
    " IsNaN LRN LessOrEqual MaxRoiPool MaxUnpool Mean MeanVarianceNormalization NonMaxSuppression NonZero"
    " OneHot ReduceLogSum ReverseSequence RoiAlign RotaryEmbedding Scatter ScatterElements ScatterND Shrink"
    " Sinh SwiGLU Tan TensorScatter ThresholdedRelu Trilu Unique Xor".split()
)
"""Operators without multiply-accumulates that have no kind of their own. What stands in no table here is refused."""

_CHANNELS = (1, 3)
_PRECISIONS = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}


class OnnxGraph(OpGraph):
    """The op graph of an ONNX file.

    Attributes:
        precision: What the file computes in: ``fp32``, ``fp16``, ``bf16``, ``fp64``, ``int8``, or for example
            ``int4 weights`` where activations are not quantised.
        notes: What the reader of its numbers should know, one sentence each.
    """

    def __init__(self, ops: Sequence[Op], source_shape: Shape, precision: str, notes: Sequence[str]) -> None:
        super().__init__([("model", tuple(ops))], source_shape)
        self.precision, self.notes = precision, tuple(notes)


def read_onnx_graph(path: Path) -> OnnxGraph:
    """The op graph, in one block, of the network in an ONNX file.

    Counted is what runs: what no output needs is left out, of an ``If`` the branch taken counts, and what depends on
    weights alone is a constant. Views vanish. Quantised and fused operators count as the float operators that they
    stand for (`latency_tables.onnx_dialects`). Parameters are the numbers of the file's weights, each counted once:
    where the exporter folded a batch norm into a convolution, its numbers are gone.

    Args:
        path: A file with one image input of shape ``(1, channels, height, width)``, or with channels last. A free batch
            size is taken as 1.

    Raises:
        LatencyError: The file is missing, holds no ONNX model, its shapes are not fixed, or it uses an operator that
            may hide multiply-accumulates.
    """
    try:
        return _Reader(fold(load_model(path))).run()
    except OnnxError as error:
        raise OnnxError(f"network `{path}`: {error}", error.hint) from error
    except Exception as error:  # whatever ONNX and protobuf raise over a file that makes no sense
        problem = f"cannot be read as an ONNX model: {type(error).__name__}: {first_line(error)}"
        raise OnnxError(f"network `{path}`: {problem}", "run `onnx.checker.check_model` on the file") from error


class _Reader:
    """Walks the operators of a model.

    Attributes:
        sources: Operator that made each tensor that depends on the input.
    """

    def __init__(self, folded: FoldedGraph) -> None:
        self.folded = folded
        self.sources: dict[str, str] = {}
        self.ops: list[Op] = []
        self._left = dict(folded.weights)  # weights that no operator has been charged for
        self._kinds: Counter[str] = Counter()  # numbers of charged weights by type

    def run(self) -> OnnxGraph:
        folded = self.folded
        self.sources[folded.image] = SOURCE
        scalars = {name for name in folded.made_of if prod(_known(folded, name)) == 1}
        for piece in collapse(folded.nodes, folded.made_of.keys(), scalars):
            self._call(piece)
        return OnnxGraph(self.ops, self._source_shape(), self._precision(), folded.notes)

    def _source_shape(self) -> Shape:
        first, middle, last = self.folded.shape(self.folded.image)[1:]
        is_channels_last = last in _CHANNELS and first not in _CHANNELS
        return (last, first, middle) if is_channels_last else (first, middle, last)

    def _precision(self) -> str:
        kind = self._kinds.most_common(1)[0][0] if self._kinds else "FLOAT"
        return "int8" if self.folded.is_quantised else _PRECISIONS.get(kind, f"{kind.lower()} weights")

    def _call(self, piece: Piece) -> None:
        inputs = [tensor for tensor in piece.inputs if tensor in self.sources]
        if not inputs:
            return
        name = piece.operator
        if name in _VIEWS:
            self.sources.update((tensor, self.sources[inputs[0]]) for tensor in piece.outputs)
        elif self._joins_its_source(piece, inputs):
            self._join(piece, self.sources[inputs[0]])
        else:
            handlers = {"Conv": self._conv, "ConvTranspose": self._conv, "Attention": self._attention}
            handlers |= {"Gemm": self._product, "MatMul": self._product, "Einsum": self._product}
            handlers.get(name, self._simple)(piece, inputs)

    def _joins_its_source(self, piece: Piece, inputs: Sequence[str]) -> bool:
        """Whether a constant is added to a linear layer or convolution, or a norm's gain and bias are applied to it."""
        if piece.operator not in ("Add", "Mul") or len(inputs) != 1 or self.sources[inputs[0]] == SOURCE:
            return False
        made = next(op for op in reversed(self.ops) if op.name == self.sources[inputs[0]])
        constant = next((tensor for tensor in piece.inputs if tensor not in self.sources), "")
        is_vector = 1 < prod(self._shape(constant)) <= 4 * max(self._shape(inputs[0]), default=1)
        if made.kind == "linear":
            return piece.operator == "Add" and is_vector
        if made.kind in ("conv", "depthwise_conv"):
            channels, *window = made.output_shape
            return piece.operator == "Add" and trimmed(self._shape(constant)) == (channels, *(1 for _ in window))
        return made.kind in ("group_norm", "layer_norm") and is_vector and not made.function

    def _join(self, piece: Piece, maker: str) -> None:
        position = next(row for row in reversed(range(len(self.ops))) if self.ops[row].name == maker)
        op = self.ops[position]
        # A bias ends what may join: a second vector behind it is an operator of its own.
        ends = piece.operator == "Add" and op.kind in ("group_norm", "layer_norm")
        function = "affine" if ends else op.function
        self.ops[position] = replace(op, params=op.params + self._charge(piece.inputs), function=function)
        self.sources[piece.output] = maker

    def _append(self, piece: Piece, kind: str, inputs: Sequence[str], **attributes: Any) -> None:
        shapes = tuple(trimmed(self._shape(tensor)) for tensor in inputs)
        sources = tuple(self.sources[tensor] for tensor in inputs)
        charged = piece.inputs[:3] if kind == "batch_norm" else piece.inputs  # the rest are running statistics
        params = self._charge(charged)
        output = trimmed(self._shape(piece.output))
        self.ops.append(Op(piece.output, kind, sources, shapes, output, params=params, **attributes))
        self.sources.update((tensor, piece.output) for tensor in piece.outputs)

    def _charge(self, tensors: Sequence[str]) -> int:
        names = frozenset().union(*(self.folded.made_of.get(tensor, frozenset()) for tensor in tensors))
        charged = [self._left.pop(name) for name in names if name in self._left]
        for count, kind in charged:
            self._kinds[kind] += count
        return sum(count for count, _ in charged)

    def _conv(self, piece: Piece, inputs: Sequence[str]) -> None:
        source, weight = self._shape(piece.inputs[0]), self._shape(piece.inputs[1])
        groups, stride = attribute(piece.node, "group", 1), attribute(piece.node, "strides", [1])[0]
        is_transposed = piece.operator == "ConvTranspose"
        spread = source if is_transposed else self._shape(piece.output)
        is_depthwise = groups > 1 and groups == source[1] and not is_transposed
        function = "grouped" if groups > 1 else "transposed" if is_transposed else ""
        self._append(
            piece,
            "depthwise_conv" if is_depthwise else "conv",
            inputs[:1],
            function="" if is_depthwise else function,
            kernel=max(weight[2:]),
            stride=stride,
            macs=prod(spread) * weight[1] * prod(weight[2:]),
        )

    def _product(self, piece: Piece, inputs: Sequence[str]) -> None:
        factors = [tensor for tensor in piece.inputs if tensor][: None if piece.operator == "Einsum" else 2]
        shapes = [self._shape(tensor) for tensor in factors]
        if piece.operator == "Einsum":
            if len(factors) == 1:
                return self._append(piece, "reshape", inputs, function="transpose")
            macs = einsum_macs(attribute(piece.node, "equation", b"").decode(), shapes)
        else:
            contracted = shapes[0][0 if attribute(piece.node, "transA", 0) else -1]
            macs = prod(self._shape(piece.output)) * contracted
        is_linear = any(tensor not in self.sources for tensor in factors)
        self._append(piece, "linear" if is_linear else "matmul", inputs[: 1 if is_linear else 2], macs=macs)

    def _attention(self, piece: Piece, inputs: Sequence[str]) -> None:
        """The standard's attention: factors are ``(batch, heads, tokens, width)``, or with heads in the width."""
        if any(piece.inputs[4:6]):
            raise refused(piece.node, " with keys of earlier tokens")
        query, key, value = (self._shape(tensor) for tensor in piece.inputs[:3])
        heads = query[1] if len(query) == 4 else attribute(piece.node, "q_num_heads", 1)
        kv_heads = key[1] if len(key) == 4 else attribute(piece.node, "kv_num_heads", 1)
        width, value_width = (query[-1], value[-1]) if len(query) == 4 else (query[-1] // heads, value[-1] // kv_heads)
        logits = (heads, query[-2], key[-2])
        scores, weights = f"{piece.output}.scores", f"{piece.output}.softmax"
        params = self._charge(piece.inputs)
        products = (
            (scores, "", piece.inputs[:2], logits, width),
            (piece.output, weights, piece.inputs[2:3], trimmed(self._shape(piece.output)), value_width),
        )
        for name, before, factors, shape, contracted in products:
            read = [tensor for tensor in factors if tensor in self.sources]
            sources = (*([before] if before else []), *(self.sources[tensor] for tensor in read))
            shapes = (*([logits] if before else []), *(trimmed(self._shape(tensor)) for tensor in read))
            macs = query[0] * prod(logits) * contracted
            self.ops.append(Op(name, "matmul", sources, shapes, shape, macs=macs, params=0 if before else params))
            if not before:
                self.ops.append(Op(weights, "softmax", (scores,), (logits,), logits))
        self.sources.update((tensor, piece.output) for tensor in piece.outputs)

    def _simple(self, piece: Piece, inputs: Sequence[str]) -> None:
        name = piece.operator
        if name in _ACTIVATIONS:
            self._append(piece, "activation", inputs[:1], function=_ACTIVATIONS[name])
        elif name == "Clip":
            bounds = [self.folded.values.get(tensor) for tensor in piece.inputs[1:]]
            bounds = bounds or [attribute(piece.node, name, None) for name in ("min", "max")]  # before version 11
            self._append(piece, "activation", inputs[:1], function="relu6" if bounds == [0, 6] else "clamp")
        elif name in _NORMS:
            self._append(piece, _NORMS[name], inputs[:1])
        elif name in ("Softmax", "LogSoftmax"):
            self._append(piece, "softmax", inputs[:1])
        elif name in _POOLS:
            window, stride = attribute(piece.node, "kernel_shape", [1])[0], attribute(piece.node, "strides", [1])[0]
            is_global = prod(trimmed(self._shape(piece.output))) <= trimmed(self._shape(inputs[0]))[0]
            function = "global" if is_global else "max" if name in ("MaxPool", "ReduceMax") else "average"
            self._append(piece, "pool", inputs[:1], function=function, kernel=window, stride=stride)
        elif name in _SUMS or name in _PRODUCTS:
            self._append(piece, "add" if name in _SUMS else "multiply", inputs)
        elif name == "Concat":
            self._append(piece, "concatenate", inputs)
        elif name in _MOVES:
            is_select = name == "Gather" and prod(self._shape(piece.inputs[1])) == 1
            self._append(piece, "reshape", inputs[:1], function="split" if is_select else _MOVES[name])
        elif name in _OTHERS:
            self._append(piece, "other", inputs, function=name)
        else:
            raise refused(piece.node)

    def _shape(self, tensor: str) -> Shape:
        return self.folded.shape(tensor)


def _known(folded: FoldedGraph, tensor: str) -> Shape:
    try:
        return folded.shape(tensor)
    except OnnxError:
        return (0,)
