"""The operators of any torch module, for networks that no search space describes.

The module is exported with `torch.export` and its ATen calls become `Op`s of the closed vocabulary. Shapes leave the
batch dimension (1) out. Legend of shapes: heads, tokens, width.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from latency_tables.errors import LatencyError
from search_spaces.graph import SOURCE, Op, OpGraph, Shape

if TYPE_CHECKING:
    import torch

_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "hardtanh": "relu6",
    "hardswish": "hard_swish",
    "hardsigmoid": "hard_sigmoid",
    "gelu": "gelu",
    "silu": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}
_NORMS = {"batch_norm": "batch_norm", "group_norm": "group_norm", "layer_norm": "layer_norm"}
_POOLS = {"adaptive_avg_pool2d": "average", "avg_pool2d": "average", "max_pool2d": "max", "mean": "average"}
_ELEMENTWISE = {"add": "add", "sub": "add", "mul": "multiply", "div": "multiply"}
_MOVES = {"permute": "transpose", "transpose": "transpose", "contiguous": "transpose", "unbind": "split"}
_MOVES |= {"split_with_sizes": "split", "chunk": "split", "slice": "split", "select": "split", "expand": "copy"}
_VIEWS = frozenset(
    ("reshape", "view", "flatten", "unsqueeze", "squeeze", "dropout", "alias", "detach", "clone", "to", "getitem")
)


def trace(module: torch.nn.Module, input_shape: Shape) -> OpGraph:
    """The op graph, in one block, of ``module`` for an input of ``input_shape`` (batch dimension left out).

    Views and dropout vanish: their readers read what stands in front of them.

    Raises:
        LatencyError: The module uses an operator outside the vocabulary, or cannot be exported.
    """
    import torch

    module = module.eval()
    with torch.no_grad():
        program = torch.export.export(module, (torch.zeros(1, *input_shape),))
    return OpGraph([("model", _Tracer().run(program.graph))], input_shape)


class _Tracer:
    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.sources: dict[str, str] = {}  # of every value: the operator that made it

    def run(self, graph: torch.fx.Graph) -> tuple[Op, ...]:
        for node in graph.nodes:
            if node.op == "placeholder":
                if not node.name.startswith(("p_", "b_", "c_")):
                    self.sources[node.name] = SOURCE
            elif node.op == "call_function":
                self._call(node, _operator_name(node))
        return tuple(self.ops)

    def _call(self, node: Any, name: str) -> None:
        inputs = [value for value in node.all_input_nodes if value.name in self.sources]
        if not inputs:
            return  # computed from weights alone: a constant
        if name in _VIEWS:
            self.sources[node.name] = self.sources[inputs[0].name]
            return
        handler = self._handler(name)
        if handler is None:
            raise LatencyError(f"operator `{node.target}` is outside the vocabulary of latency tables")
        handler(node, inputs, name)

    def _handler(self, name: str) -> Callable[[Any, list[Any], str], None] | None:
        if name in ("conv2d", "linear", "scaled_dot_product_attention"):
            return {
                "conv2d": self._conv,
                "linear": self._linear,
                "scaled_dot_product_attention": self._attention,
            }[name]
        if name in _ACTIVATIONS or name in _NORMS or name in _POOLS or name in _ELEMENTWISE or name in _MOVES:
            return self._simple
        return {"matmul": self._matmul, "bmm": self._matmul, "softmax": self._softmax, "cat": self._concatenate}.get(
            name
        )

    def _append(self, node: Any, kind: str, inputs: list[Any], **attributes: Any) -> None:
        shapes = tuple(_shape(value) for value in inputs)
        sources = tuple(self.sources[value.name] for value in inputs)
        self.ops.append(Op(node.name, kind, sources, shapes, _shape(node), **attributes))
        self.sources[node.name] = node.name

    def _conv(self, node: Any, inputs: list[Any], name: str) -> None:
        weight = _full_shape(node.args[1])
        channels_per_group, side = weight[1], weight[-1]
        depthwise = channels_per_group == 1 and _shape(inputs[0])[0] == weight[0]
        stride = node.args[3][0] if len(node.args) > 3 else 1
        self._append(
            node,
            "depthwise_conv" if depthwise else "conv",
            inputs[:1],
            kernel=side,
            stride=stride,
            macs=channels_per_group * side * side * prod(_shape(node)),
            params=prod(weight) + weight[0] * _has_bias(node),
        )

    def _linear(self, node: Any, inputs: list[Any], name: str) -> None:
        weight = _full_shape(node.args[1])
        macs = weight[1] * prod(_shape(node))
        self._append(node, "linear", inputs[:1], macs=macs, params=prod(weight) + weight[0] * _has_bias(node))

    def _matmul(self, node: Any, inputs: list[Any], name: str) -> None:
        self._append(node, "matmul", inputs, macs=prod(_shape(node)) * _shape(inputs[0])[-1])

    def _softmax(self, node: Any, inputs: list[Any], name: str) -> None:
        self._append(node, "softmax", inputs[:1])

    def _concatenate(self, node: Any, inputs: list[Any], name: str) -> None:
        self._append(node, "concatenate", inputs)

    def _attention(self, node: Any, inputs: list[Any], name: str) -> None:
        query, key, value = (_shape(argument) for argument in node.args[:3])
        sources = [self.sources[argument.name] for argument in node.args[:3]]
        *heads, tokens, width = query
        logits = (*heads, tokens, key[-2])
        scores, weights = f"{node.name}.scores", f"{node.name}.softmax"
        macs = prod(logits) * width
        self.ops.append(Op(scores, "matmul", (sources[0], sources[1]), (query, key), logits, macs=macs))
        self.ops.append(Op(weights, "softmax", (scores,), (logits,), logits))
        macs = prod(_shape(node)) * key[-2]
        self.ops.append(Op(node.name, "matmul", (weights, sources[2]), (logits, value), _shape(node), macs=macs))
        self.sources[node.name] = node.name

    def _simple(self, node: Any, inputs: list[Any], name: str) -> None:
        if name in _ACTIVATIONS:
            self._append(node, "activation", inputs, function=_ACTIVATIONS[name])
        elif name in _NORMS:
            self._append(node, _NORMS[name], inputs[:1], params=2 * _normalised_channels(node, name))
        elif name in _POOLS:
            whole = prod(_shape(node)) <= _shape(inputs[0])[0]
            self._append(node, "pool", inputs[:1], function="global" if whole else _POOLS[name])
        elif name in _ELEMENTWISE:
            constants = [value for value in node.all_input_nodes if value.name not in self.sources]
            params = sum(prod(_full_shape(value)) for value in constants)
            self._append(node, _ELEMENTWISE[name], inputs, params=params)
        else:
            self._append(node, "reshape", inputs[:1], function=_MOVES[name])


def _operator_name(node: Any) -> str:
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        return "getitem"
    return str(target).removeprefix("aten.").partition(".")[0].removesuffix("_")


def _full_shape(node: Any) -> Shape:
    value = node.meta["val"]
    if isinstance(value, (tuple, list)):
        value = value[0]
    return tuple(int(side) for side in value.shape)


def _shape(node: Any) -> Shape:
    return _full_shape(node)[1:]


def _has_bias(node: Any) -> bool:
    return len(node.args) > 2 and node.args[2] is not None


def _normalised_channels(node: Any, name: str) -> int:
    return _shape(node)[-1] if name == "layer_norm" else _shape(node)[0]
