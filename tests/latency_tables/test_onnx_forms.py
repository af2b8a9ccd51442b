"""Forms in which one network comes as an ONNX file: each counts the same, or is refused by name.

MACs and parameters are counted by hand, shapes are those of a run in ONNX Runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from latency_tables.errors import LatencyError
from latency_tables.onnx_graph import OnnxGraph, read_onnx_graph
from latency_tables.runtimes.onnx_runtime import make_session, random_inputs
from tests.support.onnx_files import IMAGE, conv, floats, run, save

node = helper.make_node
FIRST, SECOND = 8 * 8 * 16 * 3 * 9, 8 * 8 * 16 * 16 * 9
TWO = {"w1": floats(16, 3, 3, 3), "w2": floats(16, 16, 3, 3)}
TWO_PARAMS = 16 * 3 * 9 + 16 * 16 * 9


def read(path: Path) -> OnnxGraph:
    """The op graph of a file that ONNX Runtime runs, with its last shape checked."""
    graph = read_onnx_graph(path)
    assert run(path)[-1].shape[1:] == list(graph.ops())[-1].output_shape
    return graph


def counts(graph: OnnxGraph) -> tuple[int, int]:
    return graph.macs, graph.params


def refused(path: Path, *words: str) -> None:
    with pytest.raises(LatencyError) as caught:
        read_onnx_graph(path)
    for word in (str(path), *words):
        assert word in f"{caught.value} {caught.value.hint}", caught.value


CAST = node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT)
CHAIN = [conv("x", "w1", "a"), node("Relu", ["a"], ["b"]), conv("b", "w2", "y")]


@pytest.mark.parametrize(
    "nodes",
    [
        CHAIN,
        CHAIN[::-1],
        [CHAIN[1], CHAIN[2], CHAIN[0]],
        [conv("cast", "w1", "a"), *CHAIN[1:], CAST],
        [conv("cast", "w1", "a"), CHAIN[2], CAST, CHAIN[1]],
    ],
    ids=["sorted", "reversed", "rotated", "cast last", "mixed"],
)
def test_operators_in_any_order_count_the_same(nodes: list[NodeProto], tmp_path: Path) -> None:
    graph = read_onnx_graph(save(tmp_path / "network.onnx", nodes, TWO))
    assert [op.kind for op in graph.ops()] == ["conv", "activation", "conv"]
    assert counts(graph) == (FIRST + SECOND, TWO_PARAMS)


def test_graphs_that_do_not_lead_from_an_image_to_the_output_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    refused(save(path, CHAIN, TWO, outputs={"z": None}), "output `z` is written by no operator")
    refused(save(path, [*CHAIN, conv("x", "w1", "a")], TWO), "tensor `a` is written by two operators")
    refused(save(path, [conv("x", "w1", "a"), node("Add", ["a", "y"], ["y"])], TWO), "waits for its own result")
    lost = [conv("x", "w1", "a"), node("Add", ["a", "lost"], ["y"])]
    refused(save(path, lost, TWO), "`lost`", "written by no operator")
    refused(save(path, [node("Relu", ["w1"], ["y"])], TWO), "no input that an output depends on")
    two = {"x": IMAGE, "mask": IMAGE}
    refused(
        save(path, [node("Add", ["x", "mask"], ["y"])], inputs=two), "2 inputs", "`mask` 1 x 3 x 8 x 8", "only input"
    )


def test_what_no_output_needs_is_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    dead = [conv("x", "w1", "dead"), node("Relu", ["unused"], ["deader"])]
    both = {"x": IMAGE, "unused": (5,)}
    assert counts(read(save(path, [*dead, *CHAIN], TWO, inputs=both))) == (FIRST + SECOND, TWO_PARAMS)
    # The sizes of a result are known without computing it.
    sized = [CHAIN[0], node("Shape", ["a"], ["sizes"]), conv("x", "w1", "c"), node("Reshape", ["c", "sizes"], ["y"])]
    assert counts(read_onnx_graph(save(path, sized, TWO))) == (FIRST, 16 * 3 * 9)
    both = save(
        path, [*CHAIN, conv("x", "w3", "z", 1)], {**TWO, "w3": floats(4, 3, 1, 1)}, outputs={"y": None, "z": None}
    )
    assert counts(read(both)) == (FIRST + SECOND + 64 * 4 * 3, TWO_PARAMS + 12)


def branch(name: str, *nodes: NodeProto, weights: dict[str, np.ndarray] | None = None) -> onnx.GraphProto:
    output = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(value, key) for key, value in (weights or {}).items()]
    return helper.make_graph(list(nodes), name, [], output, tensors)


def choose(condition: str, result: str = "y") -> NodeProto:
    """Two convolutions where the condition holds, else a small one with a weight of its own."""
    wide = branch("wide", conv("b", "w2", "inner"), conv("x", "w1", "b"))
    narrow = branch("narrow", conv("x", "own", "inner", 1), weights={"own": floats(16, 3, 1, 1)})
    return node("If", [condition], [result], then_branch=wide, else_branch=narrow)


@pytest.mark.parametrize("opset", [13, 17])
def test_of_an_if_with_a_constant_condition_the_branch_taken_counts(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    wide, narrow = (FIRST + SECOND, TWO_PARAMS), (64 * 16 * 3, 48)
    for holds, expected in ((True, wide), (False, narrow)):
        saved = save(path, [choose("c")], {**TWO, "c": np.array(holds)}, opset=opset)
        assert counts(read_onnx_graph(saved)) == expected
    side = [node("Shape", ["x"], ["sizes"]), node("Gather", ["sizes", "one"], ["channels"])]
    side.append(node("Equal", ["channels", "three"], ["c"]))
    numbers = {"one": np.array(1), "three": np.array(3)}
    assert counts(read_onnx_graph(save(path, [*side, choose("c")], {**TWO, **numbers}, opset=opset))) == wide
    outer = branch("outer", node("Not", ["c"], ["not"]), choose("not", "chosen"), node("Relu", ["chosen"], ["inner"]))
    nested = node("If", ["c"], ["y"], then_branch=outer, else_branch=branch("other", node("Neg", ["x"], ["inner"])))
    found = read_onnx_graph(save(path, [nested], {**TWO, "c": np.array(True)}, opset=opset))
    assert (counts(found), [op.kind for op in found.ops()]) == (narrow, ["conv", "activation"])


def test_branches_and_loops_that_run_by_the_image_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    bright = [node("ReduceMax", ["x"], ["max"], keepdims=0), node("Greater", ["max", "zero"], ["c"])]
    refused(save(path, [*bright, choose("c")], {**TWO, "zero": np.float32(0)}), "`If`", "depends on the image")
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), conv("x", "w1", "inner")],
        "body",
        [
            helper.make_tensor_value_info(name, kind, [])
            for name, kind in (("i", TensorProto.INT64), ("go", TensorProto.BOOL))
        ],
        [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in (("on", TensorProto.BOOL), ("inner", TensorProto.FLOAT))
        ],
    )  # it takes the image from outside
    loop = node("Loop", ["count", "start"], ["y"], body=body)
    refused(save(path, [loop], {**TWO, "count": np.array(4), "start": np.array(True)}), "operator `Loop`")


def test_operators_of_other_domains_are_not_taken_for_the_standards(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    foreign = node("Relu", ["x"], ["y"], domain="our.kernels", name="mine")
    refused(save(path, [foreign], domains=["our.kernels"]), "`our.kernels.Relu` (node `mine`)", "standard operators")
    blocked = node("Conv", ["x", "w1"], ["y"], domain="com.microsoft.nchwc")
    refused(save(path, [blocked], TWO, domains=["com.microsoft.nchwc"]), "com.microsoft.nchwc.Conv", "ORT_ENABLE_BASIC")
    refused(save(path, [node("Conv2", ["x", "w1"], ["y"])], TWO), "`Conv2`")
    unknown = node("MatMulNBits", ["x", "w1"], ["y"], domain="com.microsoft", K=8, N=8)
    refused(save(path, [unknown], TWO, domains=["com.microsoft"]), "com.microsoft.MatMulNBits")
    lstm = {"w": floats(1, 8, 3), "r": floats(1, 8, 2), "s": np.array([8, 8, 3])}
    recurrent = [node("Reshape", ["x", "s"], ["rows"]), node("LSTM", ["rows", "w", "r"], ["y"], hidden_size=2)]
    refused(save(path, recurrent, lstm), "operator `LSTM`")
    # A function of the file is what it says, whatever it is called.
    body = [conv("in", "weight", "out")]
    function = helper.make_function("our", "Relu", ["in", "weight"], ["out"], body, [helper.make_opsetid("", 17)])
    call = node("Relu", ["x", "w1"], ["y"], domain="our")
    assert counts(read(save(path, [call], TWO, domains=["our"], functions=[function]))) == (FIRST, 16 * 3 * 9)


def constant(name: str, value: np.ndarray) -> NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def bfloat(name: str, value: np.ndarray) -> TensorProto:
    return helper.make_tensor(name, TensorProto.BFLOAT16, value.shape, value.flatten().tolist())


WEIGHT = floats(12, 5)
LIST = node("Constant", [], ["list"], value_floats=WEIGHT.flatten().tolist())
PRODUCT = node("MatMul", ["rows", "w"], ["y"])
ROWS = node("Reshape", ["x", "s"], ["rows"])
NUMBERS: dict[str, Any] = {"s": np.array([1, 16, 12])}


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([PRODUCT], {"w": WEIGHT}),
        ([constant("w", WEIGHT), PRODUCT], {}),
        ([LIST, node("Reshape", ["list", "t"], ["w"]), PRODUCT], {"t": np.array([12, 5])}),
        ([node("Transpose", ["v"], ["w"], perm=[1, 0]), PRODUCT], {"v": WEIGHT.T.copy()}),
        ([node("Identity", ["v"], ["u"]), node("Transpose", ["u"], ["w"]), PRODUCT], {"v": WEIGHT.T.copy()}),
        ([node("Cast", ["v"], ["w"], to=TensorProto.FLOAT), PRODUCT], {"v": WEIGHT.astype(np.float16)}),
        ([node("Cast", ["v"], ["w"], to=TensorProto.FLOAT), PRODUCT], {"v": bfloat("v", WEIGHT)}),
        ([node("DequantizeLinear", ["v", "scale"], ["w"], axis=1), PRODUCT],
         {"v": np.ones((12, 5), np.int8), "scale": floats(5)}),
        ([node("DequantizeLinear", ["v", "one", "zero"], ["u"]), node("Transpose", ["u"], ["w"]), PRODUCT],
         {"v": np.ones((5, 12), np.uint8), "one": np.float32(1), "zero": np.uint8(128)}),
        ([node("Concat", ["v", "u"], ["w"], axis=0), PRODUCT], {"v": WEIGHT[:4], "u": WEIGHT[4:]}),
        ([node("Concat", ["v", "v"], ["w"], axis=0), PRODUCT], {"v": floats(6, 10).reshape(6, 10)[:, :5]}),
    ],
    ids="plain node list transposed identity half bfloat int8 uint8 joined shared".split(),
)  # fmt: skip
def test_weights_are_counted_wherever_they_stand(
    nodes: list[NodeProto], constants: dict[str, Any], tmp_path: Path
) -> None:
    graph = read(save(tmp_path / "network.onnx", [*nodes[:-1], ROWS, nodes[-1]], NUMBERS | constants))
    is_shared = constants.get("v") is not None and nodes[0].op_type == "Concat" and "u" not in constants
    assert counts(graph) == (16 * 12 * 5, 30 if is_shared else 60)
    assert [op.kind for op in graph.ops()] == ["linear"]


def test_a_weight_of_several_operators_is_counted_once(tmp_path: Path) -> None:
    nodes = [conv("x", "w", "a", 1), conv("a", "w", "b", 1), node("Transpose", ["w"], ["t"], perm=[1, 0, 2, 3])]
    graph = read(save(tmp_path / "tied.onnx", [*nodes, conv("b", "t", "y", 1)], {"w": floats(3, 3, 1, 1)}))
    assert counts(graph) == (3 * 64 * 9, 9)


def test_weights_that_are_inputs_too_are_weights(tmp_path: Path) -> None:
    inputs = {"w1": (16, 3, 3, 3), "x": IMAGE, "w2": (16, 16, 3, 3)}
    assert counts(read_onnx_graph(save(tmp_path / "old.onnx", CHAIN, TWO, inputs=inputs))) == (
        FIRST + SECOND,
        TWO_PARAMS,
    )
    refused(save(tmp_path / "bare.onnx", CHAIN, {"w1": TWO["w1"]}, inputs=inputs), "2 inputs", "`w2` 16 x 16 x 3 x 3")


def test_sparse_weights_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "network.onnx", [conv("x", "w1", "y")], TWO)
    model = onnx.load(str(path))
    values = numpy_helper.from_array(floats(4), "w9")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, numpy_helper.from_array(np.arange(4)), [9]))
    onnx.save(model, str(path))
    refused(path, "sparse weights (`w9`)")


def test_free_sizes(tmp_path: Path) -> None:
    path = tmp_path / "network.onnx"
    for batch in ("batch", None):
        graph = read(save(path, CHAIN, TWO, inputs={"x": [batch, 3, 8, 8]}, outputs={"y": [batch, 16, 8, 8]}))
        assert counts(graph) == (FIRST + SECOND, TWO_PARAMS)
        assert graph.notes == ("its batch size is free and taken as 1",)
    assert read(save(path, CHAIN, TWO)).notes == ()
    free = save(path, CHAIN, TWO, inputs={"x": ["n", 3, "height", 8]})
    refused(free, "input `x` ? x 3 x ? x 8", "--input_name x --input_shape 1,3,224,8")
    refused(save(path, CHAIN, TWO, inputs={"x": [4, 3, 8, 8]}), "input `x` 4 x 3 x 8 x 8", "one image")
    wrong = save(path, CHAIN, TWO, outputs={"y": [1, 16, 4, 4]})
    refused(wrong, "output `y` is said to be 1 x 16 x 4 x 4, its operators give 1 x 16 x 8 x 8")
    shown = [node("NonZero", ["x"], ["where"]), node("Cast", ["where"], ["y"], to=TensorProto.FLOAT)]
    refused(save(path, shown), "`where` has no fixed shape", "depends on what the image shows")


def test_a_file_with_a_free_batch_is_measured_as_one_image(tmp_path: Path) -> None:
    path = save(tmp_path / "network.onnx", CHAIN, TWO, inputs={"x": ["batch", 3, 8, 8]})
    assert [value.shape for value in random_inputs(make_session(str(path))).values()] == [IMAGE]
    free = save(tmp_path / "free.onnx", CHAIN, TWO, inputs={"x": [1, 3, "height", 8]})
    with pytest.raises(ValueError, match="height"):
        random_inputs(make_session(str(free)))


def test_images_with_channels_last(tmp_path: Path) -> None:
    first = node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])
    nodes = [first, conv("t", "w1", "y")]
    graph = read(save(tmp_path / "last.onnx", nodes, TWO, inputs={"x": [1, 8, 8, 3]}))
    assert (graph.source_shape, graph.macs) == ((3, 8, 8), FIRST)


def test_shapes_that_are_computed(tmp_path: Path) -> None:
    """As exporters write ``x.flatten(2)`` and the classifier's input: sizes are read, cut, multiplied and joined."""
    nodes = [
        conv("x", "w1", "a"),
        node("Shape", ["a"], ["sizes"]),
        node("Slice", ["sizes", "zero", "two"], ["front"]),
        node("Slice", ["sizes", "two", "four"], ["back"]),
        node("ReduceProd", ["back"], ["area"], keepdims=1),
        node("Concat", ["front", "area"], ["target"], axis=0),
        node("Reshape", ["a", "target"], ["rows"]),
        node("MatMul", ["rows", "w"], ["y"]),
    ]
    numbers = {"zero": np.array([0]), "two": np.array([2]), "four": np.array([4]), "w": floats(64, 7)}
    graph = read(save(tmp_path / "network.onnx", nodes, TWO | numbers, inputs={"x": ["n", 3, 8, 8]}))
    assert counts(graph) == (FIRST + 16 * 64 * 7, 16 * 27 + 64 * 7)


FLATTEN = node("Reshape", ["x", "flat"], ["r"])


@pytest.mark.parametrize(
    ("nodes", "shapes", "macs"),
    [
        ([node("Conv", ["x", "w"], ["y"], group=3, kernel_shape=[3, 3])], {"w": (6, 1, 3, 3)}, 6 * 6 * 6 * 9),
        ([node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER")],
         {"w": (6, 3, 3, 3)}, 4 * 4 * 6 * 3 * 9),
        ([node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], {"w": (3, 6, 2, 2)}, 64 * 3 * 6 * 4),
        ([node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], group=3)], {"w": (3, 2, 2, 2)}, 64 * 3 * 2 * 4),
        ([node("Reshape", ["x", "line"], ["r"]), node("Conv", ["r", "w"], ["y"], pads=[1, 1])],
         {"w": (5, 3, 3)}, 64 * 5 * 3 * 3),
        ([node("Reshape", ["x", "cube"], ["r"]), node("Conv", ["r", "w"], ["y"])],
         {"w": (5, 3, 2, 2, 2)}, 3 * 3 * 3 * 5 * 3 * 8),
        ([FLATTEN, node("Gemm", ["r", "w", "b"], ["y"], transA=1)],
         {"w": (12, 5), "b": (5,)}, 16 * 12 * 5),
        ([FLATTEN, node("Gemm", ["r", "w"], ["y"], transB=1)], {"w": (7, 16)}, 12 * 7 * 16),
        ([node("MatMul", ["w", "x"], ["y"])], {"w": (5, 8)}, 3 * 8 * 5 * 8),
        ([node("Einsum", ["x", "w"], ["y"], equation="bchw,co->bohw")], {"w": (3, 5)}, 64 * 3 * 5),
        ([node("Einsum", ["x", "x"], ["y"], equation="bchw,bcvw->bchv")], {}, 3 * 8 * 8 * 8),
        ([node("Einsum", ["x"], ["y"], equation="bchw->bhwc")], {}, 0),
    ],
)  # fmt: skip
def test_products_of_every_form(
    nodes: list[NodeProto], shapes: dict[str, tuple[int, ...]], macs: int, tmp_path: Path
) -> None:
    sizes = {"line": [1, 3, 64], "cube": [1, 3, 4, 4, 4], "flat": [12, 16]}
    constants = {name: floats(*shape) for name, shape in shapes.items()}
    path = save(tmp_path / "network.onnx", nodes, constants | {name: np.array(size) for name, size in sizes.items()})
    graph = read_onnx_graph(path)
    assert counts(graph) == (macs, sum(value.size for value in constants.values()))
    found = run(path)[0].shape
    assert list(graph.ops())[-1].output_shape == (found[1:] if found[0] == 1 else found)


def test_patterns_take_no_weights_and_nothing_that_others_read(tmp_path: Path) -> None:
    """What looks like GELU with a vector in place of the half, and a mean that something else reads too."""
    nodes = [
        node("Div", ["x", "root"], ["divided"]),
        node("Erf", ["divided"], ["erf"]),
        node("Add", ["erf", "one"], ["plus"]),
        node("Mul", ["x", "plus"], ["gated"]),
        node("Mul", ["gated", "scale"], ["y"]),
    ]
    numbers = {"root": np.float32(1.4), "one": np.float32(1), "scale": floats(3, 1, 1)}
    graph = read(save(tmp_path / "network.onnx", nodes, numbers))
    assert graph.params == 3
    assert [op.function for op in graph.ops() if op.kind == "activation"] == ["erf"]
    numbers["scale"] = np.float32(0.5)
    assert [op.function for op in read(save(tmp_path / "network.onnx", nodes, numbers)).ops()] == ["gelu"]
    shared = [*nodes, node("Sub", ["y", "erf"], ["z"])]
    graph = read_onnx_graph(save(tmp_path / "network.onnx", shared, numbers, outputs={"z": None}))
    assert [op.kind for op in graph.ops()][-1] == "add"
    assert "gelu" not in [op.function for op in graph.ops()]
