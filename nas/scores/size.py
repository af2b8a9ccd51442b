"""Size as a score: parameters, MACs, both at once, depth and width. Every cleverer score has to beat these first.

The default, `capacity`, is the geometric mean of parameters and MACs. Parameters alone would always choose the smallest
image, since a network's parameters do not depend on it; MACs alone would spend everything on early, large maps. No
published training-free score that we know of ranks trained vision transformers better than their size does everywhere.
"""

from __future__ import annotations

import math
import statistics

from nas.errors import EvaluationError
from nas.scores.base import Score
from nas.scores.untrained import UntrainedNetwork
from search_spaces.graph import SOURCE, Op, OpGraph


def params(network: UntrainedNetwork) -> float:
    """The number of parameters that one inference reads."""
    return float(network.graph.params)


def macs(network: UntrainedNetwork) -> float:
    """The number of multiply-accumulates of one image."""
    return float(network.graph.macs)


def capacity(network: UntrainedNetwork) -> float:
    """The geometric mean of parameters and MACs, in millions."""
    return math.sqrt(float(network.graph.params) * float(network.graph.macs)) / 1e6


def depth(network: UntrainedNetwork) -> float:
    """The number of layers with weights (convolutions and linear layers) on the longest path from input to output."""
    longest = {SOURCE: 0}
    for op in network.graph.ops():
        behind = max((longest.get(name, 0) for name in op.inputs), default=0)
        longest[op.name] = behind + _is_layer(op)
    return float(max(longest.values()))


def width(network: UntrainedNetwork) -> float:
    """The mean number of output channels of the layers with weights."""
    return statistics.fmean(_channels(op) for op in _layers(network.graph))


def _layers(graph: OpGraph) -> list[Op]:
    layers = [op for op in graph.ops() if _is_layer(op)]
    if not layers:
        raise EvaluationError("the op graph has no convolution and no linear layer")
    return layers


def _is_layer(op: Op) -> bool:
    return op.macs > 0 and op.params > 0


def _channels(op: Op) -> int:
    return op.output_shape[-1] if op.kind == "linear" else op.output_shape[0]


CAPACITY = Score("capacity", capacity, "geometric mean of parameters and MACs", is_free=True)
PARAMS = Score("params", params, "parameters", is_free=True)
MACS = Score("macs", macs, "multiply-accumulates", is_free=True)
DEPTH = Score("depth", depth, "layers on the longest path", is_free=True)
WIDTH = Score("width", width, "mean channels of the layers", is_free=True)
