"""Quantised, half-precision and runtime-optimised ONNX files: they count as the float file that they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from latency_tables import LatencyPredictor, load_target
from latency_tables.errors import LatencyError
from latency_tables.onnx_graph import read_onnx_graph
from nas.latency.predict import predict_network
from nas.networks.resolve import resolve_network
from tests.support.onnx_files import IMAGE, conv, floats, run, save, session

node = helper.make_node


class Images(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{"x": floats(*IMAGE)}] * 2

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions of three kinds with biases, a gate, a residual sum and a classifier."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], kernel_shape=[3, 3], pads=[1] * 4),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2", "b2"], ["c"], kernel_shape=[3, 3], pads=[1] * 4, group=16),
        node("Sigmoid", ["c"], ["gate"]),
        node("Mul", ["c", "gate"], ["d"]),
        node("Conv", ["d", "w3"], ["e"], kernel_shape=[1, 1]),
        node("Add", ["e", "b"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Flatten", ["g"], ["h"]),
        node("Gemm", ["h", "w4", "b4"], ["y"], transB=1),
    ]
    weights = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 1, 3, 3), "b2": (16,), "w3": (16, 16, 1, 1)}
    weights |= {"w4": (10, 16), "b4": (10,)}
    path = tmp_path_factory.mktemp("convolutions") / "float.onnx"
    return save(path, nodes, {name: floats(*shape) for name, shape in weights.items()})


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A patch embedding and one transformer layer, as an older exporter writes them."""
    nodes = [
        node("Conv", ["x", "patch", "bias"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", ["p", "tokens"], ["t"]),
        node("Transpose", ["t"], ["r"], perm=[0, 2, 1]),
        node("LayerNormalization", ["r", "gain", "shift"], ["n"]),
    ]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["n", f"w{name}"], [f"{name}0"]),
            node("Add", [f"{name}0", f"b{name}"], [f"{name}1"]),
            node("Reshape", [f"{name}1", "heads"], [f"{name}2"]),
            node("Transpose", [f"{name}2"], [name], perm=perm),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["scores"]),
        node("Mul", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["shares"]),
        node("MatMul", ["shares", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
        node("Reshape", ["back", "rows"], ["joined"]),
        node("MatMul", ["joined", "wo"], ["out"]),
        node("Add", ["out", "bo"], ["o"]),
        node("Add", ["r", "o"], ["s"]),
        node("LayerNormalization", ["s", "gain2", "shift2"], ["m"]),
        node("MatMul", ["m", "w1"], ["f0"]),
        node("Add", ["f0", "b1"], ["f"]),
        node("Div", ["f", "root"], ["divided"]),
        node("Erf", ["divided"], ["erf"]),
        node("Add", ["erf", "one"], ["plus"]),
        node("Mul", ["f", "plus"], ["gated"]),
        node("Mul", ["gated", "half"], ["gelu"]),
        node("MatMul", ["gelu", "w2"], ["y"]),
    ]
    shapes = {"patch": (8, 3, 2, 2), "w1": (8, 32), "b1": (32,), "w2": (32, 8)}
    shapes |= {f"w{name}": (8, 8) for name in "qkvo"} | {f"b{name}": (8,) for name in "qkvo"}
    shapes |= {name: (8,) for name in ("bias", "gain", "shift", "gain2", "shift2")}
    constants: dict[str, Any] = {name: floats(*shape) + number for number, (name, shape) in enumerate(shapes.items())}
    constants |= {"tokens": np.array([1, 8, 16]), "heads": np.array([1, 16, 2, 4]), "rows": np.array([1, 16, 8])}
    constants |= {"scale": np.float32(0.5), "root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    constants = {
        name: np.asarray(value, value.dtype if value.dtype.kind == "i" else np.float32)
        for name, value in constants.items()
    }
    return save(tmp_path_factory.mktemp("transformer") / "float.onnx", nodes, constants)


def reduced(path: Path, form: str, folder: Path) -> Path:
    made = folder / f"{form}.onnx"
    if form == "half":
        onnx.save(convert_float_to_float16(onnx.load(str(path)), keep_io_types=True), str(made))
    elif form == "half inside and out":
        onnx.save(convert_float_to_float16(onnx.load(str(path))), str(made))
    elif form == "dynamic":
        quantize_dynamic(str(path), str(made), weight_type=QuantType.QUInt8)  # convolutions run in any release
    else:
        kind = QuantFormat.QDQ if form.startswith("QDQ") else QuantFormat.QOperator
        quantize_static(str(path), str(made), Images(), quant_format=kind, per_channel="channel" in form)
    return made


FORMS = ("QDQ", "QDQ per channel", "QOperator", "dynamic", "half", "half inside and out")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("network", ["convolutions", "transformer"])
def test_reduced_precision_counts_and_costs_as_the_float_file(
    network: str, form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(network)
    made = reduced(path, form, tmp_path)
    whole, found = read_onnx_graph(path), read_onnx_graph(made)
    assert (found.macs, found.params) == (whole.macs, whole.params)
    assert (whole.precision, found.precision) == ("fp32", "fp16" if "half" in form else "int8")
    assert list(found.ops())[-1].output_shape == run(made)[0].shape[1:]
    for name in ("pixel6", "raspberrypi4"):  # tables of int8 and of fp16
        predictor = LatencyPredictor(load_target(name))
        prediction = predict_network(predictor, resolve_network(str(made)))
        assert prediction.latency.ms == pytest.approx(predictor.graph(whole).ms, rel=0.02)
        word = f"it computes in {found.precision}; predicted is its latency in {predictor.table.precision}"
        assert [note.startswith(word) for note in prediction.notes] == [True] * (
            predictor.table.precision not in word[:20]
        )


@pytest.mark.parametrize("form", ["float", "QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("network", ["convolutions", "transformer"])
def test_files_that_onnx_runtime_optimised_count_as_before(
    network: str, form: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(network)
    whole = read_onnx_graph(path)
    made = path if form == "float" else reduced(path, form, tmp_path)
    session(made, tmp_path / "fused.onnx", "ORT_ENABLE_EXTENDED")
    assert any(each.domain == "com.microsoft" for each in onnx.load(str(tmp_path / "fused.onnx")).graph.node)
    found = read_onnx_graph(tmp_path / "fused.onnx")
    assert (found.macs, found.params) == (whole.macs, whole.params)
    assert {op.kind for op in found.ops() if op.macs} == {op.kind for op in whole.ops() if op.macs}


def test_layouts_of_one_machine_are_refused(convolutions: Path, tmp_path: Path) -> None:
    session(convolutions, tmp_path / "here.onnx", "ORT_ENABLE_ALL")
    if all(each.domain != "com.microsoft.nchwc" for each in onnx.load(str(tmp_path / "here.onnx")).graph.node):
        pytest.skip("ONNX Runtime keeps the layout on this processor")
    with pytest.raises(LatencyError, match=r"com.microsoft.nchwc") as caught:
        read_onnx_graph(tmp_path / "here.onnx")
    assert "ORT_ENABLE_BASIC" in caught.value.hint


TOKENS = node("Reshape", ["x", "s"], ["t"])
LINEAR, HEADS = 16 * 12 * 36, 2 * 16 * 16 * 12
LAYERS: list[tuple[list[NodeProto], dict[str, Any], int, int]] = [
    (
        [node("Attention", ["t", "w", "b"], ["y"], domain="com.microsoft", num_heads=3)],
        {"w": floats(12, 36), "b": floats(36)},
        LINEAR + HEADS,
        12 * 36 + 36,
    ),
    (
        [node("Attention", ["t", "w", "b"], ["y"], domain="com.microsoft", num_heads=2, qkv_hidden_sizes=[8, 8, 6])],
        {"w": floats(12, 22), "b": floats(22)},
        16 * 12 * 22 + 16 * 16 * (8 + 6),
        12 * 22 + 22,
    ),
    (
        [
            node("MatMul", ["t", "w"], ["q"]),
            node("MultiHeadAttention", ["q", "t", "t", "b"], ["y"], domain="com.microsoft", num_heads=3),
        ],
        {"w": floats(12, 12), "b": floats(36)},
        16 * 12 * 12 + HEADS,
        12 * 12 + 36,
    ),
    (
        [
            node("SkipLayerNormalization", ["t", "t", "g", "b", "c"], ["n", "", "", "sum"], domain="com.microsoft"),
            node("FusedMatMul", ["n", "w"], ["m"], domain="com.microsoft", transB=1, alpha=0.5),
            node("BiasGelu", ["m", "d"], ["h"], domain="com.microsoft"),
            node("MatMul", ["h", "v"], ["o"]),
            node("Add", ["o", "sum"], ["y"]),
        ],
        {"w": floats(20, 12), "v": floats(20, 12), "g": floats(12), "b": floats(12), "c": floats(12), "d": floats(20)},
        2 * 16 * 12 * 20,
        2 * 12 * 20 + 3 * 12 + 20,
    ),
    (
        [
            node("FusedMatMul", ["t", "t"], ["m"], domain="com.microsoft", transA=1),
            node("QuickGelu", ["m"], ["y"], domain="com.microsoft"),
        ],
        {},
        12 * 12 * 16,
        0,
    ),
]


@pytest.mark.parametrize(("nodes", "constants", "macs", "params"), LAYERS)
def test_fused_layers_count_what_they_hold(
    nodes: list[NodeProto], constants: dict[str, Any], macs: int, params: int, tmp_path: Path
) -> None:
    constants = {**constants, "s": np.array([1, 16, 12])}
    path = save(tmp_path / "fused.onnx", [TOKENS, *nodes], constants, domains=["com.microsoft"])
    graph = read_onnx_graph(path)
    assert (graph.macs, graph.params) == (macs, params)
    assert list(graph.ops())[-1].output_shape == run(path)[0].shape[1:]


def test_convolutions_with_activation_and_sum_inside(tmp_path: Path) -> None:
    inside = {"domain": "com.microsoft", "kernel_shape": [3, 3], "pads": [1] * 4}
    nodes = [
        node("FusedConv", ["x", "w1", "b1"], ["a"], activation="Relu", **inside),
        node("FusedConv", ["a", "w2", "", "a"], ["y"], activation="Clip", activation_params=[0.0, 6.0], **inside),
    ]
    constants = {"w1": floats(8, 3, 3, 3), "b1": floats(8), "w2": floats(8, 8, 3, 3)}
    graph = read_onnx_graph(save(tmp_path / "fused.onnx", nodes, constants, domains=["com.microsoft"]))
    assert [(op.kind, op.function) for op in graph.ops()] == [
        ("conv", ""),
        ("activation", "relu"),
        ("conv", ""),
        ("add", ""),
        ("activation", "relu6"),
    ]
    assert (graph.macs, graph.params) == (64 * 9 * (24 + 64), 216 + 8 + 576)


@pytest.mark.parametrize(
    ("fused", "found"),
    [
        (node("MultiHeadAttention", ["t"], ["y"], domain="com.microsoft", num_heads=3), "packed queries"),
        (node("Attention", ["t", "w", "", "", "past"], ["y"], domain="com.microsoft", num_heads=3), "beside an image"),
        (node("FusedMatMul", ["t", "t"], ["y"], domain="com.microsoft", transBatchA=1), "transposed batch"),
        (node("FusedGemm", ["t", "w"], ["y"], domain="com.microsoft", activation="Mystery"), "activation Mystery"),
        (
            node("GroupQueryAttention", ["t", "t", "t"], ["y"], domain="com.microsoft", num_heads=3),
            "GroupQueryAttention",
        ),
    ],
)
def test_forms_that_are_not_known_are_refused_by_name(fused: NodeProto, found: str, tmp_path: Path) -> None:
    constants = {"s": np.array([1, 16, 12]), "w": floats(12, 36), "past": floats(2, 1, 3, 4, 4)}
    path = save(tmp_path / "fused.onnx", [TOKENS, fused], constants, domains=["com.microsoft"])
    with pytest.raises(LatencyError, match=rf"`com.microsoft.{fused.op_type}`.*{found}|{found}"):
        read_onnx_graph(path)


def test_a_mask_inside_attention_is_counted(tmp_path: Path) -> None:
    attention = node("Attention", ["t", "t", "t", "bias"], ["y"], q_num_heads=3, kv_num_heads=3)
    constants = {"s": np.array([1, 16, 12]), "bias": floats(3, 16, 16)}
    graph = read_onnx_graph(save(tmp_path / "masked.onnx", [TOKENS, attention], constants, opset=23))
    assert (graph.macs, graph.params) == (HEADS, 3 * 16 * 16)


def test_a_depthwise_bias_joins_its_convolution(tmp_path: Path) -> None:
    nodes = [conv("x", "w", "a", group=3), node("Add", ["a", "b"], ["c"]), node("Add", ["c", "x"], ["y"])]
    graph = read_onnx_graph(save(tmp_path / "added.onnx", nodes, {"w": floats(3, 1, 3, 3), "b": floats(3, 1, 1)}))
    assert [(op.kind, op.params) for op in graph.ops()] == [("depthwise_conv", 30), ("add", 0)]
