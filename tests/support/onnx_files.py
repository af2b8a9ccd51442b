"""Small ONNX files, written node by node, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

IMAGE = (1, 3, 8, 8)


def conv(source: str, weight: str, result: str, side: int = 3, **attributes: Any) -> NodeProto:
    """A convolution that keeps the size of its map."""
    pads = [side // 2] * 4
    return helper.make_node("Conv", [source, weight], [result], kernel_shape=[side, side], pads=pads, **attributes)


def floats(*shape: int) -> np.ndarray:
    """Normal random numbers, the same at every call."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    inputs: Mapping[str, Sequence[Any]] | None = None,
    outputs: Mapping[str, Sequence[Any] | None] | None = None,
    opset: int = 17,
    domains: Sequence[str] = (),
    **graph: Any,
) -> Path:
    """Write a model that reads ``x``, of shape `IMAGE`, and writes ``y``, unless other names and shapes are told.

    Constants are float where they are no arrays.
    """
    described = (inputs or {"x": IMAGE}), (outputs or {"y": None})
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in each.items()]
        for each in described
    ]
    tensors = [
        value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value), name)
        for name, value in (constants or {}).items()
    ]
    functions = graph.pop("functions", ())
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_graph(list(nodes), "network", values[0], values[1], tensors, **graph)
    model = helper.make_model(made, opset_imports=imports, ir_version=9, functions=functions)
    onnx.save(model, str(path))
    return path


def session(path: Path, optimised: Path | None = None, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    """ONNX Runtime on a file; the graph that it optimises is written to ``optimised``."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path) -> list[np.ndarray]:
    """What ONNX Runtime computes of random numbers; free sizes are 1."""
    opened = session(path)
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    feeds = {
        value.name: floats(*(side if isinstance(side, int) else 1 for side in value.shape)).astype(kinds[value.type])
        for value in opened.get_inputs()
    }
    return list(opened.run(None, feeds))
