"""In-situ times: what each kernel takes inside a whole network, by ONNX Runtime's profiler.

A kernel on its own stays in the cache and looks faster than it is inside a network, so kernel times are harvested from
profiled runs of whole networks. Nodes of the optimised graph are matched to the kernels of our op graph by operator and
shapes. What has no counterpart (changes of layout, the pieces of a norm, reshapes) is counted with the kernel whose
output it works on, so that the kernels of a network add up to all that the profiler saw.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from latency_tables.errors import ProfileError
from latency_tables.kernels import INT8, Kernel, base_class
from search_spaces.graph import Shape

_TRUNCATION_US = 0.5  # the profiler cuts durations to whole microseconds
_CHANNEL_BLOCK = 16  # convolutions in the blocked layout pad channels to multiples of 8, or of 16 with AVX-512

_KINDS = {
    "Gemm": "linear",
    "FusedGemm": "linear",
    "QGemm": f"linear{INT8}",
    "MatMulIntegerToFloat": f"linear{INT8}",
    "QLinearMatMul": f"linear{INT8}",
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
    "MatMul": "matmul",
    "FusedMatMul": "matmul",
    "Softmax": "softmax",
    "InstanceNormalization": "norm",
    "GroupNorm": "norm",
    "LayerNormalization": "norm",
    "SkipLayerNormalization": "norm",
    "BatchNormalization": "batch_norm",
    "Add": "add",
    "Sub": "add",
    "Sum": "add",
    "Mul": "multiply",
    "Div": "multiply",
    "Transpose": "transpose",
    "DepthToSpace": "transpose",
    "GlobalAveragePool": "pool",
    "AveragePool": "pool",
    "MaxPool": "pool",
    "ReduceMean": "pool",
    "Concat": "concatenate",
    "Relu": "activation",
    "Clip": "activation",
    "HardSigmoid": "activation",
    "HardSwish": "activation",
    "Sigmoid": "activation",
    "Tanh": "activation",
    "Gelu": "activation",
    "FastGelu": "activation",
    "BiasGelu": "activation",
    "QuickGelu": "activation",
    "Erf": "activation",
}
Signature = tuple[Any, ...]
_CONVOLUTIONS = ("Conv", "FusedConv", "QLinearConv")
_NUMBERS = ("float", "uint8", "int8")


@dataclass(frozen=True)
class Node:
    """One node of an optimised graph with its time.

    Attributes:
        operator: ONNX operator, for example ``Conv``.
        inputs: Names of the tensors that it reads, outputs of those it writes.
        input_shapes: Shapes of the inputs that the profiler saw, with the batch dimension.
        window: Side of a convolution's window, 1 elsewhere.
        stride: Stride of a convolution, 1 elsewhere.
        groups: Groups of a convolution, 1 elsewhere.
        runs_us: The time of each profiled run, in microseconds.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    window: int
    stride: int
    groups: int
    runs_us: tuple[float, ...]

    @property
    def microseconds(self) -> float:
        """The fastest run: profiled runs are few and what disturbs them only adds to them."""
        return min(self.runs_us)


@dataclass(frozen=True)
class KernelSample:
    """The time of one kernel of our op graph inside one profiled network.

    Attributes:
        ms: Fastest run, the profiler's own time included.
        nodes: Number of graph nodes that were counted with the kernel, each of which pays for the profiler.
        runs: Number of profiled runs.
    """

    kernel: Kernel
    ms: float
    nodes: int
    runs: int


@dataclass(frozen=True)
class NetworkProfile:
    """What one network's profile says about its kernels.

    Attributes:
        samples: One per kernel that has a counterpart.
        unmatched: Keys of kernels without one.
        node_ms: Sum over all nodes; equal to the sum over the samples where anything was matched.
    """

    samples: tuple[KernelSample, ...]
    unmatched: tuple[str, ...]
    node_ms: float


def read_profile(events: Path, graph: Path, warm_up: int) -> list[Node]:
    """The nodes of a network's optimised graph in execution order, with their times.

    Args:
        events: File of the profiler's events.
        graph: ONNX file of the optimised graph, whose weights may be missing.
        warm_up: Number of runs that are thrown away.

    Raises:
        ProfileError: No event belongs to a node.
    """
    import onnx

    nodes = onnx.load(str(graph), load_external_data=False).graph.node
    return read_nodes(json.loads(events.read_text(encoding="utf-8")), list(nodes), warm_up)


def read_nodes(events: Iterable[Mapping[str, Any]], graph: Sequence[Any], warm_up: int) -> list[Node]:
    """Join the profiler's events with the nodes of the optimised graph.

    Raises:
        ProfileError: No event belongs to a node.
    """
    durations: dict[int, list[float]] = defaultdict(list)
    first: dict[int, Mapping[str, Any]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            index = int(event["args"]["node_index"])
            durations[index].append(float(event["dur"]) + _TRUNCATION_US)
            first.setdefault(index, event)
    by_name = {node.name: node for node in graph if node.name}
    by_operator: dict[str, list[Any]] = defaultdict(list)
    for node in graph:
        if not node.name:
            by_operator[node.op_type].append(node)
    nodes = []
    for index, event in first.items():
        name, operator = event["name"].removesuffix("_kernel_time"), event["args"]["op_name"]
        source = by_name.get(name) or (by_operator[operator].pop(0) if by_operator[operator] else None)
        nodes.append(_node(name, operator, source, event["args"], durations[index][warm_up:]))
    if not nodes:
        raise ProfileError("the profile holds no node, expected one event per node and run")
    return nodes


def match(kernels: Sequence[Kernel], nodes: Sequence[Node]) -> NetworkProfile:
    """Give every node's time to one of the kernels."""
    waiting: dict[Signature, list[int]] = defaultdict(list)
    for position, kernel in enumerate(kernels):
        waiting[kernel_signature(kernel)].append(position)
    owner: dict[str, int] = {}
    for node in nodes:
        positions = waiting.get(node_signature(node))
        if positions:
            owner[node.name] = positions.pop(0)
    matched = sorted(set(owner.values()))
    unmatched = tuple(kernel.key for position, kernel in enumerate(kernels) if position not in set(matched))
    _adopt(nodes, owner)
    times: dict[int, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.name in owner:
            times[owner[node.name]].append(node)
    samples = tuple(
        KernelSample(
            kernel=kernels[position],
            ms=sum(node.microseconds for node in times[position]) * 1e-3,
            nodes=len(times[position]),
            runs=min(len(node.runs_us) for node in times[position]),
        )
        for position in matched
    )
    return NetworkProfile(samples, unmatched, sum(node.microseconds for node in nodes) * 1e-3)


def kernel_signature(kernel: Kernel) -> Signature:
    """What a kernel and the node that runs it have in common."""
    base, output = base_class(kernel.op), kernel.output_shape
    integers = INT8 if kernel.op.endswith(INT8) else ""
    if base == "batch_norm" or (base == "depthwise_conv" and kernel.window == 1):
        return _signature("batch_norm", kernel.input_shapes, output)
    if base in ("conv", "pointwise_conv", "depthwise_conv"):
        groups = "depthwise" if base == "depthwise_conv" else "grouped" if kernel.op == "conv.grouped" else "dense"
        return _conv_signature(groups + integers, kernel.window, kernel.stride, kernel.input_shapes[0], output)
    if base in ("group_norm", "layer_norm"):
        return ("norm", prod(output))
    name = "transpose" if kernel.op == "reshape.transpose" else base + integers
    return _signature(name, kernel.input_shapes, output)


def node_signature(node: Node) -> Signature:
    """The signature that the node's kernel must have; empty for operators that belong to other kernels."""
    inputs, output = node.input_shapes, node.output_shape
    if node.operator in _CONVOLUTIONS:
        integers = INT8 if node.operator == "QLinearConv" else ""
        if not integers and node.groups > 1 and node.window == 1 and node.groups >= inputs[0][1]:
            return _signature("batch_norm", inputs, output)  # what the blocked layout makes of a batch norm
        groups = "dense" if node.groups == 1 else "depthwise" if node.groups >= inputs[0][1] else "grouped"
        return _conv_signature(groups + integers, node.window, node.stride, inputs[0][1:], output[1:])
    kind = _KINDS.get(node.operator)
    if kind is None:
        return ()
    if kind == "norm":
        return ("norm", prod(output))
    if kind == "matmul" and (len(inputs) == 1 or len(inputs[1]) == 2):
        kind = "linear"  # the second factor is a weight
    return _signature(kind, inputs, output)


def _signature(base: str, inputs: Sequence[Shape], output: Shape) -> Signature:
    """Sizes that no reshape changes: where a runtime flattens or splits dimensions, kernel and node still agree."""
    if base in ("linear", f"linear{INT8}", "pool", "transpose"):
        return (base, prod(inputs[0]), prod(output))
    if base == "matmul":
        return (base, *sorted((prod(inputs[0]), prod(inputs[1]))), prod(output))
    return (base, prod(output))


def _conv_signature(groups: str, window: int, stride: int, source: Shape, output: Shape) -> Signature:
    blocks = (-(-source[0] // _CHANNEL_BLOCK), -(-output[0] // _CHANNEL_BLOCK))
    return ("conv", groups, window, stride, *blocks, prod(output[1:]))


def _adopt(nodes: Sequence[Node], owner: dict[str, int]) -> None:
    """Give unmatched nodes to the kernel that made what they read, else to the one that reads what they make."""
    makers = {tensor: node for node in nodes for tensor in node.outputs}
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        for tensor in node.inputs:
            readers[tensor].append(node)
    later = []
    for node in nodes:  # execution order: makers come first
        if node.name in owner:
            continue
        sources = [makers[tensor].name for tensor in node.inputs if tensor in makers]
        known = [owner[name] for name in sources if name in owner]
        if known and node.operator != "ReorderInput":
            owner[node.name] = known[0]
        else:
            later.append(node)
    for node in reversed(later):
        targets = [reader.name for tensor in node.outputs for reader in readers[tensor]]
        known = [owner[name] for name in targets if name in owner]
        if known:
            owner[node.name] = known[0]


def _node(name: str, operator: str, source: Any, arguments: Mapping[str, Any], runs_us: Sequence[float]) -> Node:
    attributes = {attribute.name: attribute for attribute in source.attribute} if source is not None else {}

    def first_int(attribute: str) -> int:
        return int(attributes[attribute].ints[0]) if attribute in attributes and attributes[attribute].ints else 1

    inputs, outputs = (_shapes(arguments[f"{side}_type_shape"]) for side in ("input", "output"))
    if "channels_last" in attributes and attributes["channels_last"].i:  # as convolutions in integers are
        inputs, outputs = (_channels_first(inputs[0]), *inputs[1:]), tuple(map(_channels_first, outputs))
    return Node(
        name=name,
        operator=operator,
        inputs=tuple(source.input) if source is not None else (),
        outputs=tuple(source.output) if source is not None else (),
        input_shapes=inputs,
        output_shape=next(iter(outputs), ()),
        window=first_int("kernel_shape") if operator in _CONVOLUTIONS else 1,
        stride=first_int("strides"),
        groups=int(attributes["group"].i) if "group" in attributes else 1,
        runs_us=tuple(runs_us),
    )


def _channels_first(shape: Shape) -> Shape:
    return (shape[0], shape[-1], *shape[1:-1])


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for entry in described for kind, shape in entry.items() if kind in _NUMBERS)
