"""ONNX files, opened: local functions inlined, large weights dropped, operators in an order in which they can run."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from latency_tables.errors import LatencyError

KEPT_ELEMENTS = 256
"""Constants of up to so many elements keep their values: shapes, axes and scales that shape inference reads."""

_DATA = ("raw_data", "float_data", "int32_data", "int64_data", "uint64_data", "double_data", "external_data")


class OnnxError(LatencyError):
    """An ONNX file that cannot be counted."""


def load_model(path: Path) -> Any:
    """The model in a file, its functions inlined. Weights of more than `KEPT_ELEMENTS` numbers lose their values.

    Raises:
        OnnxError: The file is missing or holds no ONNX model that makes sense.
    """
    import onnx.inliner
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not path.is_file():
        raise OnnxError(f"found {'a folder' if path.is_dir() else 'nothing'}, expected an ONNX file")
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise OnnxError(f"found no ONNX model in it, expected one: {error}") from error
    except OSError as error:
        raise OnnxError(f"cannot be read: {error.strerror or error}") from error
    if not model.graph.node:
        raise OnnxError("found no operators in it, expected an ONNX model")
    _drop_weights(model.graph, path.parent)
    if model.functions:
        for function in model.functions:
            _drop_weights(function, path.parent)
        try:
            model = onnx.inliner.inline_local_functions(model, convert_version=True)
        except Exception as error:  # of several classes that share no base
            raise OnnxError(f"its local functions cannot be inlined: {first_line(error)}") from error
    return model


def _drop_weights(graph: Any, folder: Path) -> None:
    import onnx

    is_function = isinstance(graph, onnx.FunctionProto)
    if not is_function and graph.sparse_initializer:
        raise OnnxError(
            f"found sparse weights (`{graph.sparse_initializer[0].values.name}`), expected dense ones",
            "export the network with dense weights",
        )
    for tensor in () if is_function else graph.initializer:
        _drop_values(tensor, folder)
    for node in graph.node:
        for item in node.attribute:
            if item.type == onnx.AttributeProto.TENSOR:
                _drop_values(item.t, folder)
        for subgraph in subgraphs(node):
            _drop_weights(subgraph, folder)


def _drop_values(tensor: Any, folder: Path) -> None:
    import onnx
    from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

    if uses_external_data(tensor) and prod(tensor.dims) <= KEPT_ELEMENTS:
        try:
            _check_beside(tensor, folder)
            load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # the loader's own classes and OSError
            if tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
                raise OnnxError(
                    f"the file with its external data cannot be read: {first_line(error)}",
                    "keep the data file beside the ONNX file",
                ) from error
    if uses_external_data(tensor) or prod(tensor.dims) > KEPT_ELEMENTS:
        for field in _DATA:
            tensor.ClearField(field)
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT


def _check_beside(tensor: Any, folder: Path) -> None:
    """Refuse a data file that is a link; releases of ONNX before 1.19 follow it out of the folder."""
    for entry in tensor.external_data:
        if entry.key == "location" and (folder / entry.value).is_symlink():
            raise ValueError(f"`{entry.value}` is a link, expected a file")


def has_values(tensor: Any) -> bool:
    """Whether a constant kept its values."""
    return any(getattr(tensor, field) for field in _DATA) or prod(tensor.dims) == 0


def subgraphs(node: Any) -> Iterator[Any]:
    """The graphs inside a node: branches and bodies of loops."""
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def needs(node: Any) -> list[str]:
    """Names of the tensors that a node reads, those included that its subgraphs take from outside."""
    names = [name for name in node.input if name]
    for graph in subgraphs(node):
        inside = {value.name for value in (*graph.input, *graph.initializer)}
        inside |= {name for inner in graph.node for name in inner.output}
        outside = [name for inner in graph.node for name in needs(inner)] + [value.name for value in graph.output]
        names += [name for name in outside if name not in inside]
    return list(dict.fromkeys(names))


def running_order(nodes: list[Any], outputs: list[str]) -> list[Any]:
    """The nodes that ``outputs`` need, each behind those that it reads from, else as they stand in the file.

    Raises:
        OnnxError: Two nodes write one tensor, or nodes wait for each other.
    """
    makers: dict[str, int] = {}
    for position, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in makers:
                raise OnnxError(f"tensor `{name}` is written by two operators, expected one")
            makers[name] = position
    before: dict[int, set[int]] = {}
    ahead = [makers[name] for name in outputs if name in makers]
    while ahead:
        position = ahead.pop()
        if position not in before:
            before[position] = {makers[name] for name in needs(nodes[position]) if name in makers}
            ahead += before[position]
    readers: dict[int, list[int]] = {position: [] for position in before}
    for position, sources in before.items():
        for source in sources:
            readers[source].append(position)
    ready = sorted(position for position, sources in before.items() if not sources)
    order = []
    while ready:
        position = heapq.heappop(ready)
        order.append(nodes[position])
        for reader in readers[position]:
            before[reader].discard(position)
            if not before[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(before):
        stuck = next(position for position, sources in before.items() if sources)
        raise OnnxError(f"operator `{node_name(nodes[stuck])}` waits for its own result, expected no circle")
    return order


def node_name(node: Any) -> str:
    """What messages call a node."""
    return str(node.name or next(filter(None, node.output), node.op_type))


def operator_name(node: Any) -> str:
    """The operator with its domain, the standard's own left out."""
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


def attribute(node: Any, name: str, default: Any) -> Any:
    """An attribute of a node, or ``default`` where it has none."""
    import onnx

    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
