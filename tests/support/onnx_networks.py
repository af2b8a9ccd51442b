"""Tiny convolutional networks, as op lists and as ONNX files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from search_spaces import SOURCE, OpList
from search_spaces.graph import Op


def network_ops(width: int = 16, depth: int = 1) -> tuple[Op, ...]:
    """Pointwise and depthwise convolutions, pooling and a classifier on 8 x 16 x 16 maps."""
    ops = OpList((8, 16, 16))
    last = SOURCE
    for layer in range(depth):
        last = ops.conv(f"expand{layer}", last, width)
        last = ops.activation(f"activation{layer}", last, "relu")
        last = ops.depthwise_conv(f"depthwise{layer}", last, kernel=3)
    last = ops.append("pool", "pool", [last], (width,), function="global")
    ops.linear("classifier", last, 4)
    return ops.ops


def save_network(path: Path, width: int = 16, depth: int = 1) -> None:
    """Write the network of `network_ops` as an ONNX file."""
    shapes = {"weight": (4, width), "bias": (4,)}
    nodes, last, channels = [], "x", 8
    for layer in range(depth):
        shapes |= {f"expand{layer}": (width, channels, 1, 1), f"depthwise{layer}": (width, 1, 3, 3)}
        window: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "group": width}
        nodes += [
            helper.make_node("Conv", [last, f"expand{layer}"], [f"a{layer}"], kernel_shape=[1, 1]),
            helper.make_node("Relu", [f"a{layer}"], [f"b{layer}"]),
            helper.make_node("Conv", [f"b{layer}", f"depthwise{layer}"], [f"c{layer}"], **window),
        ]
        last, channels = f"c{layer}", width
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "weight", "bias"], ["y"], transB=1),
    ]
    generator = np.random.default_rng(0)
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [
            numpy_helper.from_array(generator.standard_normal(shape).astype(np.float32), name)
            for name, shape in shapes.items()
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
