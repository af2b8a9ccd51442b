"""What an ONNX graph computes from images, and what it does not: shapes, constants and the branches taken.

One walk in running order. ONNX's own shape inference gives the shapes of each operator, with the values of constants
at hand; ONNX's reference implementation computes small constants, so that shapes of shapes and conditions are known.
Views (casts, identities, quantise and dequantise nodes) vanish: what reads them reads what stands in front of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from latency_tables.onnx_dialects import OPSET, STANDARD, refused, rewrite
from latency_tables.onnx_model import (
    KEPT_ELEMENTS,
    OnnxError,
    attribute,
    first_line,
    has_values,
    needs,
    node_name,
    operator_name,
    running_order,
    subgraphs,
)
from search_spaces.graph import Shape

_QUANTISERS = frozenset(("QuantizeLinear", "DequantizeLinear"))
_VIEWS = _QUANTISERS | {"Identity", "Cast", "CastLike", "Dropout"}
_SAME_SHAPE = _QUANTISERS | {"GroupNormalization", "MeanVarianceNormalization"}
"""Operators whose result has the first input's shape, which ONNX's inference does not say of all their forms."""

_FIXED_SIZES = (
    "fix the sizes: `python -m onnxruntime.tools.make_dynamic_shape_fixed --input_name {name} --input_shape {shape}"
    " IN.onnx OUT.onnx`"
)


@dataclass
class FoldedGraph:
    """The operators between an image and the outputs, and the constants that they read.

    Attributes:
        image: Name of the input.
        nodes: Standard operators that depend on the image, in running order, without views.
        types: ONNX types of all tensors by name.
        values: Values of small constants by name.
        made_of: The file's weights that each constant is made of, by the constant's name.
        weights: Count of numbers, and their type, of each weight with more than one, by name.
        is_quantised: Whether activations are rounded to integers.
        notes: What the reader of the numbers should know.
    """

    image: str = ""
    nodes: list[Any] = field(default_factory=list)
    types: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    made_of: dict[str, frozenset[str]] = field(default_factory=dict)
    weights: dict[str, tuple[int, str]] = field(default_factory=dict)
    is_quantised: bool = False
    notes: list[str] = field(default_factory=list)

    def shape(self, tensor: str) -> Shape:
        """The shape of a tensor.

        Raises:
            OnnxError: It is not fixed.
        """
        sides = _sides(self.types.get(tensor))
        if sides is None or None in sides:
            raise OnnxError(
                f"tensor `{tensor}` has no fixed shape, expected one",
                "export the network with fixed shapes, so that none depends on what the image shows",
            )
        return tuple(int(side or 0) for side in sides)


def fold(model: Any) -> FoldedGraph:
    """The operators of a model as `FoldedGraph` has them.

    Raises:
        OnnxError: The model has not one image as its input, or holds what cannot be counted.
    """
    return _Folding(model).run()


class _Folding:
    def __init__(self, model: Any) -> None:
        self.model = model
        self.folded = FoldedGraph()
        versions = {entry.domain: entry.version for entry in model.opset_import}
        self.version = max((versions[name] for name in STANDARD if name in versions), default=0)
        self._aliases: dict[str, str] = {}  # of views: what they show
        self._scales: set[str] = set()  # by which runtimes multiply integers, whatever they are
        self._elements: dict[str, tuple[int, str]] = {}  # of every constant of the file

    def run(self) -> FoldedGraph:
        graph = self.model.graph
        if not self.version:
            raise OnnxError("found no version of ONNX's operators, expected one", "run `onnx.checker` on the file")
        outputs = [value.name for value in graph.output]
        self._initialise(graph, {})
        order = running_order(list(graph.node), outputs)
        written = {value.name for value in graph.input} | {name for node in order for name in node.output}
        missing = [name for name in outputs if name not in written | self.folded.made_of.keys()]
        if missing or not outputs:
            raise OnnxError(
                f"output `{missing[0]}` is written by no operator, expected one" if missing else "no output"
            )
        self._take_image({name for node in order for name in needs(node)})
        for node in order:
            self._node(node, {})
        for value in graph.output:
            self._check_output(value)
        variable = [self._aliases.get(name, name) for name in outputs if name not in self.folded.made_of]
        self.folded.nodes = running_order(self.folded.nodes, variable)
        if not self.folded.nodes:
            raise OnnxError("no output depends on the image, expected a network")
        return self.folded

    def _take_image(self, read: set[str]) -> None:
        from onnx import TypeProto

        images = [value for value in self.model.graph.input if value.name in read - self.folded.made_of.keys()]
        described = ", ".join(f"`{value.name}` {_described(_sides(value.type))}" for value in images)
        if len(images) != 1:
            raise OnnxError(
                f"found {len(images)} inputs ({described}), expected one image"
                if images
                else "found no input that an output depends on, expected one image",
                "export the network with the image as its only input",
            )
        kind, name = TypeProto(), images[0].name
        kind.CopyFrom(images[0].type)
        sides = list(_sides(kind) or ())
        if len(sides) == 4 and sides[0] is None:
            sides[0] = 1
            kind.tensor_type.shape.dim[0].dim_value = 1
            self.folded.notes.append("its batch size is free and taken as 1")
        if len(sides) != 4 or sides[0] != 1 or not all(sides):
            shape = ",".join(str(side or default) for side, default in zip(sides, (1, 3, 224, 224), strict=False))
            raise OnnxError(
                f"input {described}, expected 1 x channels x height x width with fixed sizes",
                _FIXED_SIZES.format(name=name, shape=shape)
                if len(sides) == 4 and sides[0] == 1
                else "export the network with a fixed input of one image",
            )
        self.folded.image, self.folded.types[name] = name, kind

    def _check_output(self, value: Any) -> None:
        said, found = _sides(value.type), _sides(self.folded.types.get(value.name))
        if said is None or found is None:
            return
        pairs = zip(said, found, strict=False)
        if len(said) != len(found) or any(a != b for a, b in pairs if a is not None and b is not None):
            raise OnnxError(
                f"its shapes contradict each other: output `{value.name}` is said to be {_described(said)}, its"
                f" operators give {_described(found)}"
            )

    def _initialise(self, graph: Any, scope: Mapping[str, str]) -> None:
        for tensor in graph.initializer:
            self._add_constant(scope.get(tensor.name, tensor.name), tensor)

    def _add_constant(self, name: str, tensor: Any) -> None:
        from onnx import TensorProto, helper, numpy_helper

        count, kind = prod(tensor.dims), TensorProto.DataType.Name(tensor.data_type)
        if min(tensor.dims, default=0) < 0:
            raise OnnxError(f"constant `{name}` is said to be {_described(tensor.dims)}, expected sizes of 0 or more")
        self.folded.types[name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        self._elements[name] = count, kind
        self.folded.made_of[name] = frozenset()
        # Integers of more bits are indices, unless they are dequantised.
        if count > 1 and any(word in kind for word in ("FLOAT", "DOUBLE", "INT8", "INT4", "INT2")):
            self._add_weight(name, name)
        if count <= KEPT_ELEMENTS and has_values(tensor):
            try:
                self.folded.values[name] = numpy_helper.to_array(tensor)
            except Exception as error:  # of several classes that share no base
                raise OnnxError(f"constant `{name}` cannot be read: {first_line(error)}") from error

    def _add_weight(self, name: str, maker: str) -> None:
        self.folded.weights[maker] = self._elements[maker]
        self.folded.made_of[name] = frozenset((maker,))

    def _node(self, node: Any, scope: Mapping[str, str]) -> None:
        try:
            self._take_node(node, scope)
        except OnnxError:
            raise
        except Exception as error:  # of several classes that share no base
            raise OnnxError(
                f"operator `{operator_name(node)}` (node `{node_name(node)}`) does not suit its inputs:"
                f" {first_line(error)}",
                "check the file with `onnx.checker.check_model(PATH, full_check=True)`",
            ) from error

    def _take_node(self, node: Any, scope: Mapping[str, str]) -> None:
        from onnx import NodeProto

        inside = [name for name in needs(node) if name not in node.input]
        missing = [name for name in needs(node) if scope.get(name, name) not in self.folded.types]
        if missing:
            raise OnnxError(f"tensor `{missing[0]}`, which `{node_name(node)}` reads, is written by no operator")
        is_standard = self._schema(node, self.version) is not None
        if node.op_type == "If" and is_standard:
            self._branch(node, scope)
        elif node.op_type == "Constant" and is_standard:
            self._add_constant(scope.get(node.output[0], node.output[0]), _constant_tensor(node))
        else:
            named = NodeProto()
            named.CopyFrom(node)
            named.input[:] = [scope.get(name, name) for name in node.input]
            named.output[:] = [scope.get(name, name) for name in node.output]
            written = rewrite(named, is_standard, self.folded.shape)
            for each in [named] if written is None else written:
                if each.op_type == "Constant" and written is not None:
                    self._add_constant(each.output[0], each.attribute[0].t)
                else:
                    version = self.version if written is None else OPSET
                    self._operator(each, version, [scope.get(name, name) for name in inside])

    def _branch(self, node: Any, scope: Mapping[str, str]) -> None:
        """The branch that runs, as if it stood in place of the ``If``."""
        from onnx import helper

        condition = self.folded.values.get(scope.get(node.input[0], node.input[0]))
        if condition is None:
            raise OnnxError(
                f"operator `If` (node `{node_name(node)}`): which branch runs depends on the image, expected a network"
                " that computes the same of every image",
                "export the network with fixed shapes, without branches",
            )
        branch = attribute(node, "then_branch" if bool(np.all(condition)) else "else_branch", None)
        made = [name for inner in branch.node for name in inner.output] + [tensor.name for tensor in branch.initializer]
        prefix = scope.get(node.output[0], node.output[0])
        inner_scope = {**scope, **{name: f"{prefix}/{name}" for name in made if name}}
        self._initialise(branch, inner_scope)
        for inner in running_order(list(branch.node), [value.name for value in branch.output]):
            self._node(inner, inner_scope)
        for value, output in zip(branch.output, node.output, strict=True):
            names = [inner_scope.get(value.name, value.name)], [scope.get(output, output)]
            self._operator(helper.make_node("Identity", *names), self.version, [])

    def _operator(self, node: Any, version: int, captured: Sequence[str]) -> None:
        folded = self.folded
        sources = [*filter(None, node.input), *captured]
        variable = [name for name in sources if name not in folded.made_of]
        folded.types.update(self._types(node, version))
        if node.op_type in ("Shape", "Size") and variable:
            self._take_shape(node)
        elif not variable or (node.op_type in _VIEWS and node.input[0] in folded.made_of):
            self._fold_constant(node, version, sources)
        elif next(subgraphs(node), None) is not None:
            raise refused(node)
        else:
            self._append(node, variable)

    def _append(self, node: Any, variable: Sequence[str]) -> None:
        if node.op_type == "DynamicQuantizeLinear":
            self._scales.update(node.output[1:])
        self.folded.is_quantised |= node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")
        scaled = [name for name in variable if name not in self._scales]
        if not scaled:
            self._scales.update(node.output)
        elif node.op_type in _VIEWS | {"DynamicQuantizeLinear"} or (node.op_type == "Mul" and scaled != list(variable)):
            self._aliases[node.output[0]] = self._aliases.get(scaled[0], scaled[0])
        else:
            node.input[:] = [self._aliases.get(name, name) for name in node.input]
            self.folded.nodes.append(node)

    def _take_shape(self, node: Any) -> None:
        shape = self.folded.shape(node.input[0])
        sides = shape[attribute(node, "start", 0) : attribute(node, "end", None)]
        found = prod(shape) if node.op_type == "Size" else sides
        self.folded.values[node.output[0]] = np.asarray(found, dtype=np.int64)
        self.folded.made_of[node.output[0]] = frozenset()

    def _fold_constant(self, node: Any, version: int, sources: Sequence[str]) -> None:
        folded = self.folded
        if node.op_type in _QUANTISERS:  # scales are no weights
            sources = node.input[:1]
        made_of: frozenset[str] = frozenset().union(*(folded.made_of.get(name, frozenset()) for name in sources))
        if node.op_type not in ("Shape", "Size"):
            folded.made_of.update((name, made_of) for name in node.output if name)
        else:
            folded.made_of[node.output[0]] = frozenset()
        if node.op_type == "DequantizeLinear" and self._elements.get(node.input[0], (0, ""))[0] > 1:
            self._add_weight(node.output[0], node.input[0])
        if all(name in folded.values for name in sources) and not next(subgraphs(node), None):
            self._evaluate(node, version)

    def _evaluate(self, node: Any, version: int) -> None:
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        folded = self.folded
        outputs = [name for name in node.output if name]
        sizes = [_sides(folded.types.get(name)) for name in outputs]
        if any(sides and prod(side or 1 for side in sides) > KEPT_ELEMENTS for sides in sizes):
            return
        graph = helper.make_graph(
            [node],
            "constant",
            [helper.make_value_info(name, folded.types[name]) for name in dict.fromkeys(filter(None, node.input))],
            [helper.make_value_info(name, folded.types[name]) for name in outputs],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
        feeds = {name: folded.values[name] for name in node.input if name}
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                found = ReferenceEvaluator(model).run(None, feeds)
        except Exception:  # a value that is not known; whatever needs it says so
            return
        for name, value in zip(outputs, found, strict=True):
            value = np.asarray(value)
            if value.size <= KEPT_ELEMENTS:
                folded.values[name] = value
                kind = folded.types[name].tensor_type.elem_type or helper.np_dtype_to_tensor_dtype(value.dtype)
                folded.types[name] = helper.make_tensor_type_proto(kind, value.shape)

    def _schema(self, node: Any, version: int) -> Any:
        import onnx

        if node.domain not in STANDARD:
            return None
        try:
            return onnx.defs.get_schema(node.op_type, version, "")
        except onnx.defs.SchemaError:
            return None

    def _types(self, node: Any, version: int) -> dict[str, Any]:
        from onnx import TensorProto, TypeProto, checker, helper, numpy_helper, shape_inference

        folded = self.folded
        names = list(dict.fromkeys(filter(None, node.input)))
        unknown = {name: TypeProto() for name in node.output if name}
        if node.op_type in _SAME_SHAPE:
            sides = _sides(folded.types[node.input[0]])
            kind = TensorProto.UINT8 if node.op_type == "QuantizeLinear" else TensorProto.FLOAT
            return {node.output[0]: helper.make_tensor_type_proto(kind, sides)}
        if next(subgraphs(node), None) is not None or not all(_is_known(folded.types[name]) for name in names):
            return unknown
        opsets = [helper.make_opsetid("", version)]
        context = checker.C.CheckerContext()
        context.ir_version, context.opset_imports = self.model.ir_version, {"": version}
        values = {name: numpy_helper.from_array(folded.values[name], name) for name in names if name in folded.values}
        types = {name: folded.types[name] for name in names}
        checker.check_node(node, context)
        schema = self._schema(node, version)
        found = shape_inference.infer_node_outputs(schema, node, types, values, opset_imports=opsets)
        return unknown | found


def _constant_tensor(node: Any) -> Any:
    from onnx import TensorProto, helper

    item = node.attribute[0]
    if item.name == "value":
        return item.t
    value = helper.get_attribute_value(item)
    kinds = {"value_float": TensorProto.FLOAT, "value_floats": TensorProto.FLOAT}
    kinds |= {"value_int": TensorProto.INT64, "value_ints": TensorProto.INT64}
    if item.name not in kinds:
        raise OnnxError(f"constant `{node_name(node)}`: found `{item.name}`, expected dense numbers")
    sides, numbers = ([len(value)], value) if item.name.endswith("s") else ([], [value])
    return helper.make_tensor(node.output[0], kinds[item.name], sides, numbers)


def _is_known(kind: Any) -> bool:
    return kind.WhichOneof("value") is not None


def _sides(kind: Any) -> tuple[int | None, ...] | None:
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    return tuple(side.dim_value if side.HasField("dim_value") else None for side in kind.tensor_type.shape.dim)


def _described(sides: Sequence[int | None] | None) -> str:
    return " x ".join("?" if side is None else str(side) for side in sides or ()) or "no shape"
