"""The operators of any torch module, for networks that no search space describes.

The module is exported with `torch.export` and its ATen calls become `Op`s of the closed vocabulary. What is computed
from weights alone is a constant, as it is for every runtime that folds constants. An operator that the vocabulary does
not know becomes one of kind ``other``, priced by its shapes, unless it might hide multiply-accumulates.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

from latency_tables.counting import may_hide_macs
from latency_tables.errors import LatencyError
from search_spaces.graph import SOURCE, Op, OpGraph, Shape

if TYPE_CHECKING:
    import torch

_SPELT = {
    "hardtanh": "relu6",
    "hardswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
    "clamp_min": "clamp",
    "clamp_max": "clamp",
}
_ACTIVATIONS = frozenset(
    "relu relu6 hardtanh hardswish hardsigmoid gelu silu sigmoid tanh mish elu selu leaky_relu prelu softplus softsign"
    " clamp clamp_min clamp_max erf exp exp2 log log2 log1p sin cos sqrt rsqrt reciprocal square pow abs neg sign"
    " floor round logical_not cumsum".split()
)
_NORMS = {
    "batch_norm": "batch_norm",
    "group_norm": "group_norm",
    "instance_norm": "group_norm",
    "layer_norm": "layer_norm",
    "rms_norm": "layer_norm",
}
_SUMS = frozenset(
    "add sub rsub maximum minimum where masked_fill lerp eq ne lt le gt ge logical_and logical_or".split()
)
_PRODUCTS = frozenset(("mul", "div", "remainder", "floor_divide", "addcmul", "addcdiv"))
_POOLS = frozenset(
    "adaptive_avg_pool1d adaptive_avg_pool2d avg_pool1d avg_pool2d max_pool1d max_pool2d adaptive_max_pool2d mean sum"
    " amax amin max min var std var_mean std_mean linalg_vector_norm norm prod argmax logsumexp".split()
)
_POOLED_BY = {"max_pool1d": "max", "max_pool2d": "max", "adaptive_max_pool2d": "max", "amax": "max", "max": "max"}
_MOVES = {
    "transpose": "permute transpose movedim swapaxes t mT numpy_T pixel_shuffle pixel_unshuffle"
    " channel_shuffle flip rot90",
    "split": "unbind split unsafe_split split_with_sizes chunk tensor_split slice select narrow diagonal",
    "copy": "expand expand_as repeat tile repeat_interleave copy index_put index_copy slice_scatter select_scatter",
    "gather": "index index_select gather take_along_dim embedding topk sort argsort masked_select",
    "roll": "roll",
    "pad": "pad constant_pad_nd reflection_pad2d replication_pad2d",
    "resize": "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa"
    " interpolate grid_sampler",
    "unfold": "unfold im2col col2im fold",
}
_MOVED_BY = {name: function for function, names in _MOVES.items() for name in names.split()}
_VIEWS = frozenset(
    "reshape view flatten unflatten unsqueeze squeeze dropout feature_dropout alias detach clone contiguous to type_as"
    " float half reshape_as view_as ravel getitem lift_fresh_copy _to_copy atleast_2d real view_as_real"
    " view_as_complex".split()
)
_CONVOLUTIONS = frozenset("conv1d conv2d conv3d conv_transpose1d conv_transpose2d convolution".split())
_PRODUCTS_OF_MATRICES = frozenset("matmul bmm mm mv".split())
_CONSTANT_MAKERS = frozenset("zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty".split())


def trace(module: torch.nn.Module, input_shape: Shape, name: str = "model") -> OpGraph:
    """The op graph, in one block, of ``module`` for an input of ``input_shape`` (batch dimension left out).

    Views and dropout vanish: their readers read what stands in front of them. Shapes leave out a leading dimension of
    1. Every parameter is counted once, with the first operator that needs it.

    Args:
        module: Any module of one image; on the meta device it costs no memory. It is put into evaluation mode.
        input_shape: ``(channels, height, width)``.
        name: What messages call the module.

    Raises:
        LatencyError: The module cannot be exported for this input, or an unknown operator of it may hide
            multiply-accumulates.
    """
    graph = _export(module.eval(), input_shape, name)
    return OpGraph([("model", _Tracer(name).run(graph))], input_shape)


def _export(module: torch.nn.Module, input_shape: Shape, name: str) -> torch.fx.Graph:
    import torch

    tensor = next(iter(module.parameters()), None)
    device = "cpu" if tensor is None else tensor.device
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(module, (torch.zeros(1, *input_shape, device=device),))
            hidden = {node.target for node in program.graph.nodes if _hides_operators(node)}
            if hidden:
                table = torch.export.default_decompositions()
                program = program.run_decompositions({target: table[target] for target in hidden if target in table})
    except Exception as error:  # the exporter raises whatever the module's own code raises
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise LatencyError(
            f"model `{name}` cannot be traced for an input of {' x '.join(map(str, input_shape))}: {reason}",
            "check that the input has a size that the model accepts, and that its forward pass branches on no values",
        ) from error
    graph: torch.fx.Graph = program.graph
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


class _Tracer:
    """Walks an exported graph.

    Attributes:
        ops: The operators so far.
        sources: Operator that made each value that depends on the input.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ops: list[Op] = []
        self.sources: dict[str, str] = {}
        self._parameters: dict[str, frozenset[str]] = {}  # of every constant: the parameters that it is made of
        self._sizes: dict[str, int] = {}  # of every parameter that no operator has been charged for yet

    def run(self, graph: torch.fx.Graph) -> tuple[Op, ...]:
        for node in graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op in ("call_function", "get_attr"):
                self._call(node)
        return tuple(self.ops)

    def _placeholder(self, node: Any) -> None:
        if node.name.startswith("p_"):
            self._parameters[node.name] = frozenset((node.name,))
            self._sizes[node.name] = prod(_full_shape(node))
        elif not node.name.startswith(("b_", "c_")):
            self.sources[node.name] = SOURCE

    def _call(self, node: Any) -> None:
        name = _operator_name(node)
        inputs = [value for value in node.all_input_nodes if value.name in self.sources]
        # A view of a constant stays one, whatever its shape or type is taken from.
        is_constant = not inputs or (name in _VIEWS and node.all_input_nodes[0].name not in self.sources)
        if is_constant or name in _CONSTANT_MAKERS:
            made_of = [self._parameters.get(value.name, frozenset()) for value in node.all_input_nodes]
            self._parameters[node.name] = frozenset().union(*made_of)
        elif _first_tensor(node) is None:
            return  # an assertion or a number
        elif name in _VIEWS:
            self.sources[node.name] = self.sources[inputs[0].name]
        else:
            self._handler(node, name)(node, inputs, name)

    def _handler(self, node: Any, name: str) -> Callable[[Any, list[Any], str], None]:
        if name in _CONVOLUTIONS:
            return self._conv
        if name == "scaled_dot_product_attention":
            return self._attention
        if name in ("linear", "addmm", "baddbmm", "addbmm", "einsum", "bilinear") or name in _PRODUCTS_OF_MATRICES:
            return self._product
        if may_hide_macs(node.target):
            raise LatencyError(
                f"model `{self.name}`: operator `{node.target}` is unknown to latency tables and may hold"
                " multiply-accumulates, expected convolutions, linear layers and products of matrices",
                "export the model to ONNX and name the file, or write the layer with common operators",
            )
        return self._simple

    def _append(
        self, node: Any, kind: str, inputs: Sequence[Any], *, constants: Sequence[Any] | None = None, **attributes: Any
    ) -> None:
        shapes = tuple(_shape(value) for value in inputs)
        sources = tuple(self.sources[value.name] for value in inputs)
        params = self._charge(node.all_input_nodes if constants is None else constants)
        self.ops.append(Op(node.name, kind, sources, shapes, _shape(node), params=params, **attributes))
        self.sources[node.name] = node.name

    def _charge(self, values: Sequence[Any]) -> int:
        """The number of parameters behind constants, each of which is charged to one operator only."""
        names = frozenset().union(*(self._parameters.get(value.name, frozenset()) for value in values))
        return sum(self._sizes.pop(name, 0) for name in names)

    def _conv(self, node: Any, inputs: list[Any], name: str) -> None:
        source, weight = _full_shape(node.args[0]), _full_shape(node.args[1])
        is_transposed = "transpose" in name
        window = prod(weight[2:])
        groups = source[1] // weight[0 if is_transposed else 1]
        # Transposed, every input element is spread over a window of outputs.
        macs = prod(source if is_transposed else _full_shape(node)) * weight[1] * window
        is_depthwise = groups > 1 and groups == source[1] and not is_transposed
        grouped = "grouped" if groups > 1 else "transposed" if is_transposed else ""
        self._append(
            node,
            "depthwise_conv" if is_depthwise else "conv",
            inputs[:1],
            function="" if is_depthwise else grouped,
            kernel=max(weight[2:]),
            stride=_first_number(node.args[3] if len(node.args) > 3 else node.kwargs.get("stride", 1)),
            macs=macs,
        )

    def _product(self, node: Any, inputs: list[Any], name: str) -> None:
        """A linear layer where one factor is a constant, else a product of matrices."""
        arguments = node.args[1] if name == "einsum" else node.args
        if name in ("addmm", "baddbmm", "addbmm"):
            arguments = arguments[1:]
        factors = [value for value in arguments if hasattr(value, "meta")]
        if name == "einsum":
            macs = einsum_macs(node.args[0], [_full_shape(value) for value in factors])
        else:
            macs = prod(_full_shape(node)) * _full_shape(factors[0])[-1]
        is_linear = name == "linear" or any(value.name not in self.sources for value in factors[:2])
        self._append(node, "linear" if is_linear else "matmul", inputs[:1] if is_linear else inputs[:2], macs=macs)

    def _attention(self, node: Any, inputs: list[Any], name: str) -> None:
        query, key, value = (_full_shape(argument) for argument in node.args[:3])
        sources = [self.sources.get(argument.name, SOURCE) for argument in node.args[:3]]
        logits = (*query[:-1], key[-2])
        shapes = [trimmed(shape) for shape in (query, key, logits, value)]
        scores, weights = f"{node.name}.scores", f"{node.name}.softmax"
        params = self._charge(node.all_input_nodes)
        macs = prod(logits) * query[-1]
        self.ops += [
            Op(scores, "matmul", tuple(sources[:2]), tuple(shapes[:2]), shapes[2], macs=macs, params=params),
            Op(weights, "softmax", (scores,), (shapes[2],), shapes[2]),
            Op(
                node.name,
                "matmul",
                (weights, sources[2]),
                (shapes[2], shapes[3]),
                _shape(node),
                macs=prod(logits) * value[-1],
            ),
        ]
        self.sources[node.name] = node.name

    def _simple(self, node: Any, inputs: list[Any], name: str) -> None:
        if name in _ACTIVATIONS:
            self._append(node, "activation", inputs[:1], function=_SPELT.get(name, name))
        elif name in _NORMS:
            self._append(node, _NORMS[name], inputs[:1])
        elif name in ("softmax", "_softmax", "log_softmax"):
            self._append(node, "softmax", inputs[:1])
        elif name in _POOLS:
            self._pool(node, inputs, name)
        elif name in _SUMS or name in _PRODUCTS:
            self._append(node, "add" if name in _SUMS else "multiply", inputs)
        elif name in ("cat", "stack", "concat"):
            self._append(node, "concatenate", inputs)
        elif name in _MOVED_BY:
            self._append(node, "reshape", inputs[:1], function=_MOVED_BY[name])
        else:
            self._append(node, "other", inputs, function=name)

    def _pool(self, node: Any, inputs: list[Any], name: str) -> None:
        is_global = prod(_shape(node)) <= _shape(inputs[0])[0]
        window, stride = 1, 1
        if name in ("avg_pool2d", "max_pool2d"):
            window = _first_number(node.args[1])
            stride = _first_number(node.args[2]) if len(node.args) > 2 and node.args[2] else window
        function = "global" if is_global else _POOLED_BY.get(name, "average")
        self._append(node, "pool", inputs[:1], function=function, kernel=window, stride=stride)


def _operator_name(node: Any) -> str:
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        return "getitem"
    return str(target).partition(".")[2].partition(".")[0].removesuffix("_")


def _hides_operators(node: Any) -> bool:
    """Whether the node calls something unknown that torch itself writes with other operators."""
    name = _operator_name(node)
    known = _ACTIVATIONS | _NORMS.keys() | _SUMS | _PRODUCTS | _POOLS | _VIEWS | _CONVOLUTIONS | _PRODUCTS_OF_MATRICES
    known |= _MOVED_BY.keys() | {"scaled_dot_product_attention", "linear", "einsum", "softmax", "cat", "stack"}
    return name not in known and _is_composite(node)


def _is_composite(node: Any) -> bool:
    import torch

    target = node.target
    return isinstance(target, torch._ops.OpOverload) and target._can_decompose()


def _first_tensor(node: Any) -> Any | None:
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    return value if hasattr(value, "shape") else None


def _full_shape(node: Any) -> Shape:
    value = _first_tensor(node)
    return () if value is None else tuple(int(side) for side in value.shape)


def _shape(node: Any) -> Shape:
    return trimmed(_full_shape(node))


def trimmed(shape: Shape) -> Shape:
    """Without the batch dimension. Where windows were moved into the batch it is no 1, and stays."""
    return shape[1:] if shape[:1] == (1,) else shape


def _first_number(value: Any) -> int:
    return int(value[0] if isinstance(value, (tuple, list)) else value)


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Multiply-accumulates of an einsum that multiplies its factors from left to right."""
    terms = [term.strip() for term in equation.partition("->")[0].split(",")]
    # Dimensions under an ellipsis are aligned at the right; each gets a name of its own.
    sizes: dict[str, int] = {}
    names: list[set[str]] = []
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.replace(" ", "").partition("...")
        hidden = len(shape) - len(before) - len(after) if dots else 0
        letters = [*before, *(f"...{position}" for position in range(hidden, 0, -1)), *after]
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
        names.append(set(letters))
    total, seen = 0, names[0]
    for more in names[1:]:
        seen = seen | more
        total += prod(sizes[letter] for letter in seen)
    return total
