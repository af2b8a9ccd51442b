"""The op graph of an ONNX file: the same operators as `latency_tables.trace` finds in the module that was exported.

Only the structure is needed. Weights in files of their own are never opened; those inside the ONNX file are dropped as
soon as it has been parsed. Shapes come from the file and from ONNX's shape inference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from latency_tables.errors import LatencyError
from latency_tables.onnx_patterns import Piece, collapse
from latency_tables.trace import einsum_macs, trimmed
from search_spaces.graph import SOURCE, Op, OpGraph, Shape

_KEPT_ELEMENTS = 256
"""Constants of up to so many elements keep their values: shapes, axes and scales that shape inference reads."""

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
_VIEWS = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Cast", "CastLike"))
_HIDE_MACS = frozenset(
    "If Loop Scan LSTM GRU RNN ConvInteger QLinearConv MatMulInteger QLinearMatMul DeformConv FusedConv FusedGemm"
    " FusedMatMul QGemm QAttention MultiHeadAttention".split()
)


def read_onnx_graph(path: Path) -> OpGraph:
    """The op graph, in one block, of the network in an ONNX file.

    Views vanish, and what depends on weights alone is a constant. Parameters are the numbers of the file's float
    tensors: where the exporter folded a batch norm into a convolution, its numbers are gone.

    Args:
        path: A file with one image input of fixed shape ``(1, channels, height, width)``.

    Raises:
        LatencyError: The file is missing, holds no ONNX model, its shapes are not fixed, or it uses an operator that
            may hide multiply-accumulates.
    """
    model = _load(path)
    return _Reader(path, model).run()


def _load(path: Path) -> Any:
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise LatencyError(f"network `{path}`: found {found}, expected an ONNX file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise LatencyError(f"network `{path}`: found no ONNX model in it, expected one: {error}") from error
    except OSError as error:
        raise LatencyError(f"network `{path}`: cannot be read: {error.strerror or error}") from error
    if not model.graph.node:
        raise LatencyError(f"network `{path}`: found no operators in it, expected an ONNX model")
    _drop_weights(path, model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # of several classes that share no base
        raise LatencyError(f"network `{path}`: its shapes contradict each other: {error}") from error


def _drop_weights(path: Path, model: Any) -> None:
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    tensors = list(model.graph.initializer)
    tensors += [item.t for node in model.graph.node if node.op_type == "Constant" for item in node.attribute]
    for tensor in tensors:
        is_index = tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        if prod(tensor.dims) > _KEPT_ELEMENTS:
            for field in ("raw_data", "float_data", "int64_data", "int32_data", "double_data", "external_data"):
                tensor.ClearField(field)
            tensor.data_location = onnx.TensorProto.DEFAULT
        elif is_index and uses_external_data(tensor):
            try:
                load_external_data_for_tensor(tensor, str(path.parent))
            except Exception as error:  # the loader's own classes and OSError
                raise LatencyError(
                    f"network `{path}`: the file with its external data cannot be read: {error}",
                    "keep the data file beside the ONNX file",
                ) from error


class _Reader:
    """Walks the operators of a model.

    Attributes:
        shapes: Shape of every tensor, the batch dimension included; None marks a dimension that is not fixed.
        sources: Operator that made each tensor that depends on the input.
    """

    def __init__(self, path: Path, model: Any) -> None:
        self.path = path
        self.graph = model.graph
        self.shapes = _shapes(model.graph)
        self.sources: dict[str, str] = {}
        self.ops: list[Op] = []
        # Of constants: the float tensors that they are made of, until an operator has been charged for them.
        self._made_of = {tensor.name: frozenset((tensor.name,)) for tensor in self.graph.initializer}
        self._sizes = {t.name: prod(t.dims) for t in self.graph.initializer if _is_float(t) and prod(t.dims) > 1}
        self._values = {tensor.name: _scalar(tensor) for tensor in self.graph.initializer if prod(tensor.dims) == 1}
        self._constants = set(self._made_of) | {""}

    def run(self) -> OpGraph:
        source_shape = self._input()
        for node in self.graph.node:  # what no image flows into
            if all(tensor in self._constants for tensor in node.input):
                self._constants.update(node.output)
                made_of = frozenset().union(*(self._made_of.get(tensor, frozenset()) for tensor in node.input))
                self._made_of.update((tensor, made_of) for tensor in node.output)
            elif node.op_type in ("Shape", "Size", "ConstantOfShape", "Range"):
                self._constants.update(node.output)
        live = [node for node in self.graph.node if node.output[0] not in self._constants]
        for piece in collapse(live, self._constants):
            self._call(piece)
        return OpGraph([("model", tuple(self.ops))], source_shape)

    def _input(self) -> Shape:
        inputs = [value for value in self.graph.input if value.name not in self._made_of]
        if len(inputs) != 1:
            raise self._error(f"found {len(inputs)} inputs, expected one image")
        shape = self.shapes.get(inputs[0].name, ())
        if None in shape or len(shape) != 4 or shape[0] != 1:
            found = " x ".join("?" if side is None else str(side) for side in shape) or "no shape"
            raise self._error(
                f"input `{inputs[0].name}`: found {found}, expected 1 x channels x height x width with fixed sizes",
                "export the network with a fixed input of one image",
            )
        self.sources[inputs[0].name] = SOURCE
        return tuple(int(side or 0) for side in shape[1:])

    def _call(self, piece: Piece) -> None:
        inputs = [tensor for tensor in piece.inputs if tensor in self.sources]
        if not inputs:
            return
        name = piece.operator
        if name in _VIEWS:
            self.sources.update((tensor, self.sources[inputs[0]]) for tensor in piece.outputs)
        elif name in _HIDE_MACS:
            raise self._error(
                f"operator `{name}` (node `{piece.name}`) may hold multiply-accumulates that latency tables do not"
                " count, expected a float network of common operators",
                "export the network to ONNX again without quantisation or runtime-specific optimisation",
            )
        elif self._joins_its_source(piece, inputs):
            self._join(piece, self.sources[inputs[0]])
        else:
            handlers = {"Conv": self._conv, "ConvTranspose": self._conv, "Attention": self._attention}
            handlers |= {"Gemm": self._product, "MatMul": self._product, "Einsum": self._product}
            handlers.get(name, self._simple)(piece, inputs)

    def _joins_its_source(self, piece: Piece, inputs: Sequence[str]) -> bool:
        """Whether a constant is added to a linear layer or a norm's gain and bias are applied to it."""
        if piece.operator not in ("Add", "Mul") or len(inputs) != 1 or self.sources[inputs[0]] == SOURCE:
            return False
        made = next(op for op in reversed(self.ops) if op.name == self.sources[inputs[0]])
        constant = next((tensor for tensor in piece.inputs if tensor not in self.sources), "")
        is_vector = 1 < prod(self._shape(constant)) <= 4 * max(self._shape(inputs[0]), default=1)
        if made.kind == "linear":
            return piece.operator == "Add" and is_vector
        return made.kind in ("group_norm", "layer_norm") and is_vector and not made.function

    def _join(self, piece: Piece, maker: str) -> None:
        position = next(row for row in reversed(range(len(self.ops))) if self.ops[row].name == maker)
        op = self.ops[position]
        # A bias ends what may join: a second vector behind it is an operator of its own.
        ends = piece.operator == "Add" and op.kind != "linear"
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
        names = frozenset().union(*(self._made_of.get(tensor, frozenset()) for tensor in tensors))
        return sum(self._sizes.pop(name, 0) for name in names)

    def _conv(self, piece: Piece, inputs: Sequence[str]) -> None:
        source, weight = self._shape(piece.inputs[0]), self._shape(piece.inputs[1])
        groups, stride = _attribute(piece, "group", 1), _attribute(piece, "strides", [1])[0]
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
            macs = einsum_macs(_attribute(piece, "equation", b"").decode(), shapes)
        else:
            contracted = shapes[0][0 if _attribute(piece, "transA", 0) else -1]
            macs = prod(self._shape(piece.output)) * contracted
        is_linear = any(tensor not in self.sources for tensor in factors)
        self._append(piece, "linear" if is_linear else "matmul", inputs[: 1 if is_linear else 2], macs=macs)

    def _attention(self, piece: Piece, inputs: Sequence[str]) -> None:
        """The standard's attention: factors are ``(batch, heads, tokens, width)``, or with heads in the width."""
        query, key, value = (self._shape(tensor) for tensor in piece.inputs[:3])
        heads = query[1] if len(query) == 4 else _attribute(piece, "q_num_heads", 1)
        kv_heads = key[1] if len(key) == 4 else _attribute(piece, "kv_num_heads", 1)
        width, value_width = (query[-1], value[-1]) if len(query) == 4 else (query[-1] // heads, value[-1] // kv_heads)
        logits = (heads, query[-2], key[-2])
        sources = [self.sources.get(tensor, SOURCE) for tensor in piece.inputs[:3]]
        scores, weights = f"{piece.output}.scores", f"{piece.output}.softmax"
        factors = tuple(trimmed(shape) for shape in (query, key))
        self.ops += [
            Op(scores, "matmul", tuple(sources[:2]), factors, logits, macs=query[0] * prod(logits) * width),
            Op(weights, "softmax", (scores,), (logits,), logits),
            Op(
                piece.output,
                "matmul",
                (weights, sources[2]),
                (logits, trimmed(value)),
                trimmed(self._shape(piece.output)),
                macs=query[0] * prod(logits) * value_width,
            ),
        ]
        self.sources.update((tensor, piece.output) for tensor in piece.outputs)

    def _simple(self, piece: Piece, inputs: Sequence[str]) -> None:
        name = piece.operator
        if name in _ACTIVATIONS:
            self._append(piece, "activation", inputs[:1], function=_ACTIVATIONS[name])
        elif name == "Clip":
            bounds = [self._values.get(tensor) for tensor in piece.inputs[1:]]
            self._append(piece, "activation", inputs[:1], function="relu6" if bounds == [0, 6] else "clamp")
        elif name in _NORMS:
            self._append(piece, _NORMS[name], inputs[:1])
        elif name in ("Softmax", "LogSoftmax"):
            self._append(piece, "softmax", inputs[:1])
        elif name in _POOLS:
            window, stride = _attribute(piece, "kernel_shape", [1])[0], _attribute(piece, "strides", [1])[0]
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
        else:
            self._append(piece, "other", inputs, function=name)

    def _shape(self, tensor: str) -> Shape:
        shape = self.shapes.get(tensor)
        if shape is None or None in shape:
            raise self._error(
                f"tensor `{tensor}` has no fixed shape, expected one",
                "export the network with fixed shapes, or run ONNX's shape inference on the file",
            )
        return tuple(int(side or 0) for side in shape)

    def _error(self, problem: str, hint: str = "") -> LatencyError:
        return LatencyError(f"network `{self.path}`: {problem}", hint)


def _shapes(graph: Any) -> Mapping[str, tuple[int | None, ...]]:
    shapes: dict[str, tuple[int | None, ...]] = {t.name: tuple(t.dims) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            value = next((item.t for item in node.attribute if item.name == "value"), None)
            shapes[node.output[0]] = tuple(value.dims) if value is not None else ()
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            sides = value.type.tensor_type.shape.dim
            shapes.setdefault(
                value.name, tuple(side.dim_value if side.HasField("dim_value") else None for side in sides)
            )
    return shapes


def _is_float(tensor: Any) -> bool:
    import onnx

    kinds = onnx.TensorProto
    return tensor.data_type in (kinds.FLOAT, kinds.FLOAT16, kinds.BFLOAT16, kinds.DOUBLE)


def _scalar(tensor: Any) -> float:
    import onnx

    return float(onnx.numpy_helper.to_array(tensor).item()) if tensor.ByteSize() else math.nan


def _attribute(piece: Piece, name: str, default: Any) -> Any:
    import onnx

    found = next((item for item in piece.node.attribute if item.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)
