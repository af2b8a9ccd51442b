"""Kernels after fusion, and predictions for networks and populations."""

from __future__ import annotations

import numpy as np
import pytest

from latency_tables import LatencyPredictor, LatencyTable, fuse
from latency_tables.kernels import ONNX_RUNTIME, ONNX_RUNTIME_INT8, base_class, kernel_key
from search_spaces import SOURCE, OpList, get_space
from search_spaces.graph import Op, Shape
from tests.support.tables import KERNEL, ROOFLINE, document, validation_of


def table(**changes: object) -> LatencyTable:
    return LatencyTable.from_dict(document(**changes), "here")


def conv_norm_activation(function: str, *, branch: bool = False) -> OpList:
    ops = OpList((8, 4, 4))
    last = ops.conv("conv", SOURCE, 16)
    last = ops.norm("norm", last, "batch_norm", affine_channels=16)
    activated = ops.activation("activation", last, function)
    if branch:
        ops.add("residual", last, activated)
    return ops


def test_batch_norm_and_relu_are_absorbed() -> None:
    (kernel,) = fuse(conv_norm_activation("relu").ops)
    assert (kernel.op, kernel.key) == ("pointwise_conv", "pointwise_conv[8x4x4>16x4x4]+relu")
    assert kernel.macs == 8 * 16 * 16
    assert kernel.elements_read == 8 * 16 + 8 * 16
    assert kernel.features(4) == (1, 2048, 4 * 256, 4 * 256)


def test_a_batch_reads_its_weights_once() -> None:
    (kernel,) = fuse(conv_norm_activation("relu").ops, batch=8)
    assert kernel.key == "pointwise_conv[8x4x4>16x4x4]+relu@8"
    assert (kernel.macs, kernel.elements_read) == (8 * 8 * 16 * 16, 8 * 16 + 8 * (8 * 16))
    graph = get_space("elastic-mini").lower(get_space("elastic-mini").smallest)
    one, eight = (LatencyPredictor(table(batch=batch)).graph(graph).ms for batch in (1, 8))
    assert one < eight < 8 * one


def test_hard_swish_is_a_kernel_of_its_own() -> None:
    assert [kernel.op for kernel in fuse(conv_norm_activation("hard_swish").ops)] == [
        "pointwise_conv",
        "activation.hard_swish",
    ]


def test_nothing_is_absorbed_that_something_else_reads() -> None:
    kernels = fuse(conv_norm_activation("relu", branch=True).ops)
    assert [kernel.op for kernel in kernels] == ["pointwise_conv", "activation.relu", "add"]


def test_onnx_runtime_fuses_more() -> None:
    ops = OpList((8, 4, 4))
    last = ops.conv("expand", SOURCE, 16)
    last = ops.activation("activation", last, "hard_swish")
    last = ops.conv("project", last, 8)
    last = ops.norm("norm", last, "batch_norm", affine_channels=8)
    ops.add("residual", SOURCE, last)
    expand, project = fuse(ops.ops, ONNX_RUNTIME)
    assert expand.key == "pointwise_conv[8x4x4>16x4x4]+hard_swish"
    assert project.key == "pointwise_conv[16x4x4>8x4x4]+add"
    assert project.elements_read == 16 * 16 + 16 * 8 + 8 * 16
    assert len(fuse(ops.ops)) == 4


def test_a_sum_of_two_convolutions_is_absorbed_once() -> None:
    ops = OpList((8, 4, 4))
    ops.add("sum", ops.conv("first", SOURCE, 8), ops.conv("second", SOURCE, 8))
    assert [kernel.key for kernel in fuse(ops.ops, ONNX_RUNTIME)] == [
        "pointwise_conv[8x4x4>8x4x4]+add",
        "pointwise_conv[8x4x4>8x4x4]",
    ]


def test_keys_tell_windows_and_strides_apart() -> None:
    shapes = [(8, 4, 4)], (8, 4, 4)
    keys = {kernel_key("conv", *shapes, kernel, stride) for kernel in (1, 3, 5) for stride in (1, 2)}
    assert len(keys) == 6
    assert base_class("activation.gelu") == "activation"


@pytest.mark.parametrize(
    ("shapes", "op"),
    [
        (((4, 49, 8), (4, 49, 8), (4, 49, 49)), "matmul.narrow"),  # queries times keys, heads of 8 channels
        (((4, 49, 49), (4, 49, 8), (4, 49, 8)), "matmul.narrow"),  # the same times values
        (((4, 8, 7, 7), (4, 49, 49), (4, 8, 7, 7)), "matmul.narrow"),  # as maps
        (((4, 16, 7, 7), (4, 49, 49), (4, 16, 7, 7)), "matmul"),
        (((4, 49, 16), (4, 49, 16), (4, 49, 49)), "matmul"),
    ],
)
def test_thin_products_of_matrices_are_a_class_of_their_own(shapes: tuple[Shape, ...], op: str) -> None:
    first, second, output = shapes
    macs = 4 * 49 * 49 * first[1] if len(first) == 4 else 4 * 49 * 49 * min(first[-1], output[-1])
    (kernel,) = fuse([Op("product", "matmul", ("query", "key"), (first, second), output, macs=macs)])
    assert (kernel.op, base_class(kernel.op)) == (op, "matmul")
    assert kernel.key.startswith(f"{op}[")
    rooflines = [{**ROOFLINE, "op": "other"}, {**ROOFLINE, "op": "matmul.small", "launch_us": 7.0}]
    with_fewer_classes = LatencyPredictor(table(rooflines=rooflines, kernels=[]))
    assert with_fewer_classes.kernel(kernel).ms > 0.007


def test_a_stored_kernel_is_taken_and_others_are_priced_by_class() -> None:
    predictor = LatencyPredictor(table())
    stored, elementwise = (predictor.kernel(kernel) for kernel in fuse(conv_norm_activation("hard_swish").ops))
    assert (stored.ms, stored.how) == (KERNEL["median_ms"], "measured")
    expected = 0.002 + 0.1e-6 * 4 * 256 + 0.2e-6 * 4 * 256
    assert elementwise.ms == pytest.approx(expected)
    assert (elementwise.low_ms, elementwise.high_ms) == pytest.approx((expected / 2, expected * 2))
    assert elementwise.how == "extrapolated"  # class `other` is no evidence


def test_flags_follow_the_range_of_the_evidence() -> None:
    narrow = {**ROOFLINE, "op": "activation", "highest": [1, 0, 1024, 1024]}
    predictor = LatencyPredictor(table(rooflines=[ROOFLINE, narrow]))
    inside = fuse(conv_norm_activation("hard_swish").ops)[1]
    wider = OpList((8, 8, 8))
    wider.activation("activation", SOURCE, "hard_swish")
    assert predictor.kernel(inside).how == "interpolated"
    assert predictor.kernel(fuse(wider.ops)[0]).how == "extrapolated"


@pytest.mark.parametrize("name", ["elastic", "elastic-mini"])
def test_population_equals_graph(name: str) -> None:
    space = get_space(name)
    covered = [
        {**ROOFLINE, "op": op, "highest": [1, 3e8, 1e7, 1e7]}
        for op in ("pointwise_conv", "depthwise_conv", "conv", "activation", "add", "multiply", "pool", "linear")
    ]
    attention = [{**ROOFLINE, "op": op, "highest": [1, 3e8, 3e6, 3e6]} for op in ("matmul", "softmax", "reshape")]
    norm = {**ROOFLINE, "op": "group_norm", "highest": [1, 0, 1.4e5, 1.4e5]}
    rows = {"validation": validation_of({"other/0": 1_000_000, "other/1": 200_000_000})}
    predictor = LatencyPredictor(table(rooflines=[ROOFLINE, *covered, *attention, norm], **rows))
    genotypes = space.sample(40, np.random.default_rng(0))
    population = predictor.population(space, genotypes)
    graphs = [predictor.graph(space.lower(architecture)) for architecture in space.decode(genotypes)]
    for field in ("ms", "low_ms", "high_ms"):
        expected = [getattr(latency, field) for latency in graphs]
        np.testing.assert_allclose(getattr(population, field), expected, rtol=1e-9)
    assert population.extrapolated.tolist() == [latency.extrapolated for latency in graphs]
    assert (population.low_ms <= population.ms).all()
    assert (population.ms <= population.high_ms).all()
    if name == "elastic":
        assert 0 < population.extrapolated.sum() < 40


def test_scale_overhead_and_interval_apply_to_networks() -> None:
    space = get_space("elastic-mini")
    graph, known = space.lower(space.smallest), {"validation": validation_of({"elastic-mini/0": 10_000})}
    plain = table(scale=1.0, overhead_ms=0.0, interval={"low": 0.0, "high": 0.0, "coverage": 0.9}, **known)
    bare, dressed = (LatencyPredictor(each).graph(graph, "elastic-mini") for each in (plain, table(**known)))
    assert dressed.ms == pytest.approx(1.1 * bare.ms + 0.05)
    assert dressed.high_ms == pytest.approx(1.2 * (1.1 * bare.high_ms + 0.05))
    assert dressed.low_ms == pytest.approx(0.9 * (1.1 * bare.low_ms + 0.05))


def test_blocks_are_priced_once_for_all_populations(monkeypatch: pytest.MonkeyPatch) -> None:
    space = get_space("elastic-mini")
    predictor = LatencyPredictor(table())
    genotypes = space.sample(1000, np.random.default_rng(1))
    first = predictor.population(space, genotypes[:1])
    monkeypatch.setattr(predictor, "kernel", None)  # pricing anything from here on fails
    assert predictor.population(space, genotypes).ms[0] == first.ms[0]


def test_integer_kernels_have_keys_of_their_own_and_each_tensor_is_quantised_once() -> None:
    ops = OpList((17, 192))
    query, key = (ops.linear(name, SOURCE, 192) for name in ("query", "key"))
    ops.append("product", "matmul", [query, key], (17, 17), macs=17 * 17 * 192)
    kernels = fuse(ops.ops, ONNX_RUNTIME_INT8)
    assert [kernel.key for kernel in kernels] == [
        "quantize[17x192>17x192]",
        "linear[17x192>17x192]@int8",
        "linear[17x192>17x192]@int8",
        "matmul[17x192,17x192>17x17]",
    ]
    assert kernels[1].features(4)[2:] == (17 * 192 + 192 * 193, 4 * 17 * 192)
    assert base_class(kernels[1].op) == "linear"


def test_convolutions_hand_integers_on_and_leave_the_image_alone() -> None:
    ops = OpList((3, 8, 8))
    stem = ops.conv("stem", SOURCE, 8)
    first = ops.conv("first", stem, 8)
    second = ops.conv("second", first, 8)
    ops.add("sum", second, first)
    assert [kernel.op for kernel in fuse(ops.ops, ONNX_RUNTIME_INT8)] == [
        "pointwise_conv",
        "quantize",
        "pointwise_conv@int8",
        "pointwise_conv@int8",
        "dequantize",
        "dequantize",
        "add",
    ]
