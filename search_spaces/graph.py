"""Operators and the op graph: the lowered form of an architecture, before any runtime fuses it.

One lowering per space serves parameter and MAC counts, peak memory, latency tables and drawing. Shapes leave the
batch dimension out (it is 1 everywhere) and counts are numbers of elements, so that precision stays the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx

Shape = tuple[int, ...]

OP_KINDS = (
    "conv",
    "depthwise_conv",
    "linear",
    "matmul",
    "softmax",
    "batch_norm",
    "group_norm",
    "layer_norm",
    "activation",
    "add",
    "multiply",
    "pool",
    "reshape",
    "concatenate",
)
"""The closed vocabulary of operators that a space may lower to and that latency tables must understand."""

SOURCE = "input"
"""The name under which the operators of a block refer to what flows into the block."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operator with fixed shapes.

    Attributes:
        name: Name within its block, for example ``attention.qkv``; prefixed with the block's name inside a graph.
        kind: One of `OP_KINDS`.
        inputs: Names of the operators (or `SOURCE`) whose outputs this one reads.
        input_shapes: One shape per entry of ``inputs``, batch dimension left out, channels first for maps.
        output_shape: Shape of the result, batch dimension left out.
        function: What exactly an activation, a pooling or a reshape computes, for example ``hard_swish``, ``global``.
        kernel: Side of a convolution's or pooling's window.
        stride: Stride of a convolution's or pooling's window.
        macs: Multiply-accumulates of convolutions, linear layers and attention products; 0 for everything else.
        params: Learned numbers that the operator reads.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    function: str = ""
    kernel: int = 1
    stride: int = 1
    macs: int = 0
    params: int = 0

    @property
    def elements_read(self) -> int:
        """Elements of all inputs and weights together."""
        return sum(prod(shape) for shape in self.input_shapes) + self.params

    @property
    def elements_written(self) -> int:
        """Elements of the output."""
        return prod(self.output_shape)


class OpList:
    """Collects the operators of one block; each method appends one operator and returns its name.

    A tensor is referred to by the name of the operator that made it; shapes are looked up from there.
    """

    def __init__(self, source_shape: Shape) -> None:
        self._shapes: dict[str, Shape] = {SOURCE: source_shape}
        self._ops: list[Op] = []

    @property
    def ops(self) -> tuple[Op, ...]:
        """The operators so far, in the order in which they run."""
        return tuple(self._ops)

    def shape(self, name: str) -> Shape:
        """The output shape of the operator ``name``."""
        return self._shapes[name]

    def append(self, name: str, kind: str, inputs: Sequence[str], output_shape: Shape, **attributes: int | str) -> str:
        """Append any operator of `OP_KINDS`; ``attributes`` are the remaining fields of `Op`."""
        if kind not in OP_KINDS:
            raise ValueError(f"operator `{name}`: unknown kind `{kind}`, expected one of {', '.join(OP_KINDS)}")
        shapes = tuple(self._shapes[source] for source in inputs)
        self._ops.append(Op(name, kind, tuple(inputs), shapes, output_shape, **attributes))  # type: ignore[arg-type]
        self._shapes[name] = output_shape
        return name

    def conv(
        self, name: str, source: str, channels: int, *, kernel: int = 1, stride: int = 1, bias: bool = False
    ) -> str:
        """A dense convolution on a ``(channels, side, side)`` map, padded so that sides divide upwards."""
        in_channels, side, _ = self._shapes[source]
        out_side = -(-side // stride)
        weights = in_channels * channels * kernel * kernel
        return self.append(
            name,
            "conv",
            [source],
            (channels, out_side, out_side),
            kernel=kernel,
            stride=stride,
            macs=weights * out_side * out_side,
            params=weights + channels * bias,
        )

    def depthwise_conv(self, name: str, source: str, *, kernel: int, stride: int = 1) -> str:
        """A depthwise convolution without bias."""
        channels, side, _ = self._shapes[source]
        out_side = -(-side // stride)
        weights = channels * kernel * kernel
        return self.append(
            name,
            "depthwise_conv",
            [source],
            (channels, out_side, out_side),
            kernel=kernel,
            stride=stride,
            macs=weights * out_side * out_side,
            params=weights,
        )

    def linear(self, name: str, source: str, features: int, *, bias: bool = True) -> str:
        """A linear layer over the last dimension of its input."""
        *leading, in_features = self._shapes[source]
        weights = in_features * features
        return self.append(
            name,
            "linear",
            [source],
            (*leading, features),
            macs=weights * prod(leading),
            params=weights + features * bias,
        )

    def norm(self, name: str, source: str, kind: str, *, affine_channels: int) -> str:
        """A batch, group or layer norm with a learned gain and bias per channel."""
        return self.append(name, kind, [source], self._shapes[source], params=2 * affine_channels)

    def activation(self, name: str, source: str, function: str) -> str:
        """An elementwise function."""
        return self.append(name, "activation", [source], self._shapes[source], function=function)

    def add(self, name: str, first: str, second: str) -> str:
        """An elementwise sum, for example a residual connection."""
        return self.append(name, "add", [first, second], self._shapes[first])


def peak_elements(ops: Sequence[Op]) -> int:
    """The largest number of activation elements alive at once while the operators of one block run in order.

    Every operator writes a tensor of its own, whose memory is freed when the last operator that reads it has run; a
    runtime that fuses operators or makes views needs less. Between two blocks nothing is alive but what the first
    gives to the second, so a network's peak is the largest of its blocks' peaks.
    """
    last_use = {name: position for position, op in enumerate(ops) for name in op.inputs}
    sizes = {name: prod(shape) for op in ops for name, shape in zip(op.inputs, op.input_shapes, strict=True)}
    alive = sizes.get(SOURCE, 0)
    peak = 0
    for position, op in enumerate(ops):
        alive += op.elements_written
        peak = max(peak, alive)
        alive -= sum(sizes[name] for name in set(op.inputs) if last_use[name] == position)
        if op.name not in last_use and position + 1 < len(ops):
            alive -= op.elements_written
    return peak


class OpGraph:
    """The operators of a whole network and the tensors that flow between them.

    Attributes:
        blocks: The names of the network's blocks in order, each with its operators.
    """

    def __init__(self, blocks: Sequence[tuple[str, tuple[Op, ...]]], source_shape: Shape) -> None:
        self.blocks = tuple(blocks)
        self.source_shape = source_shape

    def ops(self) -> Iterator[Op]:
        """Every operator in execution order, names and inputs prefixed with the block (``T1.0.attention.qkv``)."""
        previous = SOURCE
        for block, ops in self.blocks:
            for op in ops:
                inputs = tuple(previous if name == SOURCE else f"{block}.{name}" for name in op.inputs)
                yield replace(op, name=f"{block}.{op.name}", inputs=inputs)
            if ops:
                previous = f"{block}.{ops[-1].name}"

    def total(self, cost: Callable[[Op], int]) -> int:
        """The sum of ``cost`` over all operators."""
        return sum(cost(op) for _, ops in self.blocks for op in ops)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image: convolutions, linear layers and attention products."""
        return self.total(lambda op: op.macs)

    @property
    def params(self) -> int:
        """Learned numbers that one inference reads."""
        return self.total(lambda op: op.params)

    @property
    def peak_elements(self) -> int:
        """The largest number of activation elements alive at once, see `peak_elements`."""
        return max(peak_elements(ops) for _, ops in self.blocks)

    def to_networkx(self) -> networkx.DiGraph:
        """The same graph as a `networkx.DiGraph`: a node per operator with its `Op` under ``op``."""
        import networkx

        graph = networkx.DiGraph()
        graph.add_node(SOURCE, op=None)
        for op in self.ops():
            graph.add_node(op.name, op=op)
            graph.add_edges_from((name, op.name) for name in op.inputs)
        return graph
