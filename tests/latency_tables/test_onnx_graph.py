"""Op graphs of ONNX files: equal to the traced module's, patterns put together, and one error for each bad file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from latency_tables.errors import LatencyError
from latency_tables.kernels import ONNX_RUNTIME, fuse
from latency_tables.onnx_graph import read_onnx_graph
from latency_tables.runtimes.onnx_file import quiet_exporters
from latency_tables.trace import trace
from nas.networks.onnx import export_onnx
from search_spaces import OpGraph
from tests.support.onnx_files import save


class Mixed(nn.Module):
    """Convolutions of all kinds, then one transformer layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6(), nn.Conv2d(16, 16, 3, padding=1, groups=4))
        self.depthwise = nn.Conv2d(16, 16, 5, padding=2, groups=16)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
        self.head = nn.Linear(16, 10)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BNC = self.depthwise(self.stem(x_BCHW)).flatten(2).transpose(1, 2)
        y_BNC = self.norm(x_BNC)
        x_BNC = x_BNC + self.attention(y_BNC, y_BNC, y_BNC, need_weights=False)[0]
        x_BNC = x_BNC + self.feed_forward(self.norm(x_BNC))
        logits_BK: torch.Tensor = self.head(x_BNC.mean(dim=1))
        return logits_BK


def classes(graph: OpGraph) -> Counter[str]:
    return Counter(kernel.op for _, ops in graph.blocks for kernel in fuse(ops, ONNX_RUNTIME))


def relu(path: Path, shape: list[object]) -> Path:
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], inputs={"x": shape})


def test_an_exported_module_has_the_kernels_of_the_traced_one(tmp_path: Path) -> None:
    module = Mixed().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)  # the exporter stores equal tensors once
    export_onnx(module, 16, tmp_path / "network.onnx")
    traced, read = trace(module, (3, 16, 16)), read_onnx_graph(tmp_path / "network.onnx")
    assert read.source_shape == (3, 16, 16)
    assert read.macs == traced.macs
    assert read.params == traced.params
    assert {"conv.grouped", "depthwise_conv", "activation.gelu", "softmax", "layer_norm"} <= set(classes(traced))
    for op in (
        "conv",
        "conv.grouped",
        "depthwise_conv",
        "linear",
        "matmul",
        "softmax",
        "layer_norm",
        "activation.gelu",
    ):
        assert classes(read)[op] == classes(traced)[op], op


class Squeezed(nn.Module):
    """Drops sides of one, which an older exporter writes as an ``If`` over sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BC = self.stem(x_BCHW).squeeze(3).squeeze(2)
        logits_BK: torch.Tensor = self.head(x_BC[:, : x_BC.shape[1]])
        return logits_BK


@pytest.mark.parametrize("folding", [True, False])
@pytest.mark.parametrize("free", [[], [0]], ids=["fixed", "free batch"])
@pytest.mark.parametrize("network", [Mixed, Squeezed])
def test_older_exports_count_as_the_traced_module(
    network: type[nn.Module], free: list[int], folding: bool, tmp_path: Path
) -> None:
    module = network().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    side = 16 if network is Mixed else 8
    image, path = torch.zeros(1, 3, side, side), tmp_path / "network.onnx"
    options: dict[str, Any] = {"dynamic_axes": {"x": dict.fromkeys(free, "batch")}} if free else {}
    with quiet_exporters():
        torch.onnx.export(
            module,
            (image,),
            path,
            dynamo=False,
            input_names=["x"],
            do_constant_folding=folding,
            opset_version=17,
            **options,
        )
    traced, read = trace(module, (3, side, side)), read_onnx_graph(path)
    assert (read.macs, read.params) == (traced.macs, traced.params)
    assert len(read.notes) == len(free)
    for op in ("conv", "conv.grouped", "depthwise_conv", "linear", "matmul", "softmax", "activation.gelu"):
        assert classes(read)[op] == classes(traced)[op], op


def test_pieces_of_older_exporters_are_put_together(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[-1]),
        node("Sub", ["x", "mean"], ["centred"]),
        node("Pow", ["centred", "two"], ["squared"]),
        node("ReduceMean", ["squared"], ["variance"], axes=[-1]),
        node("Add", ["variance", "epsilon"], ["shifted"]),
        node("Sqrt", ["shifted"], ["root"]),
        node("Div", ["centred", "root"], ["normed"]),
        node("Mul", ["normed", "gain"], ["scaled"]),
        node("Add", ["scaled", "bias"], ["biased"]),
        node("MatMul", ["biased", "weight"], ["product"]),
        node("Add", ["product", "linear_bias"], ["linear"]),
        node("Div", ["linear", "root_two"], ["divided"]),
        node("Erf", ["divided"], ["erf"]),
        node("Add", ["erf", "one"], ["plus"]),
        node("Mul", ["linear", "plus"], ["gated"]),
        node("Mul", ["gated", "half"], ["gelu"]),
        node("Sigmoid", ["gelu"], ["sigmoid"]),
        node("Mul", ["gelu", "sigmoid"], ["y"]),
    ]
    numbers = {"two": 2.0, "epsilon": 1e-5, "root_two": 1.41, "one": 1.0, "half": 0.5}
    numbers |= {"gain": np.ones(8), "bias": np.zeros(8), "weight": np.ones((8, 6)), "linear_bias": np.zeros(6)}
    constants = {name: np.float32(value) for name, value in numbers.items()}
    path = save(tmp_path / "old.onnx", nodes, constants, inputs={"x": [1, 2, 4, 8]})
    graph = read_onnx_graph(path)
    found = [(op.kind, op.function, op.params) for op in graph.ops()]
    kinds = [(kind, function if kind == "activation" else "", params) for kind, function, params in found]
    assert kinds == [("layer_norm", "", 16), ("linear", "", 54), ("activation", "gelu", 0), ("activation", "silu", 0)]
    assert graph.macs == 2 * 4 * 8 * 6


def test_weights_in_another_file_are_not_needed(tmp_path: Path) -> None:
    export_onnx(Mixed().eval(), 16, tmp_path / "inside.onnx")
    expected = read_onnx_graph(tmp_path / "inside.onnx")
    model = onnx.load(str(tmp_path / "inside.onnx"))
    onnx.save_model(
        model, str(tmp_path / "apart.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=1024
    )
    (tmp_path / "weights.bin").unlink()
    found = read_onnx_graph(tmp_path / "apart.onnx")
    assert (found.macs, found.params) == (expected.macs, expected.params)


def test_bad_files_are_one_clear_error_each(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    cases = [
        (tmp_path / "missing.onnx", "found nothing, expected an ONNX file"),
        (tmp_path, "found a folder"),
        (tmp_path / "text.onnx", "no ONNX model in it"),
        (tmp_path / "empty.onnx", "no operators in it"),
        (relu(tmp_path / "free.onnx", ["batch", 3, "height", 8]), "\\? x 3 x \\? x 8, expected 1 x channels"),
        (relu(tmp_path / "tokens.onnx", [1, 8, 8]), "1 x 8 x 8, expected 1 x channels"),
    ]
    for path, message in cases:
        with pytest.raises(LatencyError, match=message):
            read_onnx_graph(path)
