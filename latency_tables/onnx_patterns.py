"""Operators that older exporters write in pieces: GELU, SiLU, hard-swish and layer norm, put together again.

Each pattern is found from one telling node and collapses into a single `Piece` that reads the pattern's input and
writes its output, as runtimes do when they optimise a graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Piece:
    """One or several ONNX nodes that are one operator.

    Attributes:
        name: Name of the last node.
        operator: ONNX operator, for example ``Gelu``.
        inputs: Names of tensors; empty for an input that is left out.
        output: Name of the first output tensor.
        outputs: Names of all of them.
        node: The ONNX node behind it, the last one of a pattern.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    node: Any

    @property
    def output(self) -> str:
        """Name of the first output tensor."""
        return self.outputs[0]


def collapse(nodes: Sequence[Any], constants: Set[str], scalars: Set[str]) -> list[Piece]:
    """The graph's operators in order, patterns put together.

    Args:
        nodes: ONNX nodes in execution order.
        constants: Names of tensors that do not depend on the input.
        scalars: Names of those that are one number. Patterns hold no others, which may be weights.
    """
    return _Collapser(nodes, constants, scalars).run()


class _Collapser:
    def __init__(self, nodes: Sequence[Any], constants: Set[str], scalars: Set[str]) -> None:
        self.nodes = nodes
        self.constants = constants
        self.scalars = scalars
        self.makers = {tensor: node for node in nodes for tensor in node.output}
        self.readers: dict[str, list[Any]] = defaultdict(list)
        for node in nodes:
            for tensor in node.input:
                self.readers[tensor].append(node)

    def run(self) -> list[Piece]:
        patterns: dict[str, Callable[[Any], tuple[str, str, list[Any]] | None]] = {
            "Erf": self._gelu,
            "Sigmoid": self._gated,
            "HardSigmoid": self._gated,
            "Sub": self._layer_norm,
        }
        swallowed: set[str] = set()
        made: dict[str, Piece] = {}  # by the output of the pattern's last node
        for node in self.nodes:
            found = patterns[node.op_type](node) if node.op_type in patterns else None
            if found is not None and self._is_closed(found[2]):
                operator, source, members = found
                last = members[-1]
                swallowed.update(tensor for member in members for tensor in member.output)
                made[last.output[0]] = Piece(last.name or last.output[0], operator, (source,), (last.output[0],), last)
        pieces = []
        for node in self.nodes:
            if node.output[0] in made:
                pieces.append(made[node.output[0]])
            elif node.output[0] not in swallowed:
                name = node.name or node.output[0]
                pieces.append(Piece(name, node.op_type, tuple(node.input), tuple(node.output), node))
        return pieces

    def _is_closed(self, members: list[Any]) -> bool:
        """Whether nothing outside of a pattern reads what is inside, and it holds no weights."""
        inside = {tensor for member in members[:-1] for tensor in member.output}
        outside = [node for tensor in inside for node in self.readers[tensor] if node not in members]
        held = {tensor for member in members for tensor in member.input[:2] if tensor in self.constants}
        return not outside and held <= self.scalars

    def _gelu(self, erf: Any) -> tuple[str, str, list[Any]] | None:
        """``x * (1 + erf(x / sqrt 2)) * 0.5``, the half before or behind."""
        scaled = self.makers.get(erf.input[0])
        if scaled is None or scaled.op_type not in ("Div", "Mul"):
            return None
        source = self._variable(scaled)
        shifted = self._only_reader(erf, "Add")
        product = self._only_reader(shifted, "Mul")
        if source is None or shifted is None or product is None:
            return None
        members = [scaled, erf, shifted]
        other = next((tensor for tensor in product.input if tensor != shifted.output[0]), "")
        half = self.makers.get(other)
        if other != source:
            if half is None or half.op_type != "Mul" or self._variable(half) != source:
                return None
            return "Gelu", source, [*members, half, product]
        after = self._only_reader(product, "Mul")
        return ("Gelu", source, [*members, product, after]) if after is not None else None

    def _gated(self, gate: Any) -> tuple[str, str, list[Any]] | None:
        """``x * sigmoid(x)`` and ``x * hard_sigmoid(x)``."""
        product = self._only_reader(gate, "Mul")
        if product is None or gate.input[0] not in product.input:
            return None
        return ("Silu" if gate.op_type == "Sigmoid" else "HardSwish"), gate.input[0], [gate, product]

    def _layer_norm(self, centred: Any) -> tuple[str, str, list[Any]] | None:
        """``(x - mean) / sqrt(mean((x - mean)^2) + epsilon)``; gain and bias are absorbed like those of other norms."""
        source, mean = centred.input[0], self.makers.get(centred.input[1])
        if mean is None or mean.op_type != "ReduceMean" or mean.input[0] != source:
            return None
        squared = next((node for node in self.readers[centred.output[0]] if node.op_type in ("Pow", "Mul")), None)
        variance = self._only_reader(squared, "ReduceMean")
        shifted = self._only_reader(variance, "Add")
        root = self._only_reader(shifted, "Sqrt")
        quotient = self._only_reader(root, "Div")
        if quotient is None or quotient.input[0] != centred.output[0]:
            return None
        return "LayerNormalization", source, [mean, centred, squared, variance, shifted, root, quotient]

    def _variable(self, node: Any) -> str | None:
        """The only input that is no constant."""
        tensors = [tensor for tensor in node.input if tensor not in self.constants]
        return tensors[0] if len(tensors) == 1 else None

    def _only_reader(self, node: Any, operator: str) -> Any | None:
        if node is None:
            return None
        readers = self.readers[node.output[0]]
        return readers[0] if len(readers) == 1 and readers[0].op_type == operator else None
