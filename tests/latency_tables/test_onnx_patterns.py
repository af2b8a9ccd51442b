"""Operators in pieces: what is put together again, and what only looks like it."""

from __future__ import annotations

import pytest
from onnx import NodeProto
from onnx.helper import make_node

from latency_tables.onnx_patterns import Piece, collapse

CONSTANTS = frozenset({"root2", "one", "half", "two", "epsilon"})


def collapsed(*nodes: NodeProto) -> list[tuple[str, tuple[str, ...], str]]:
    return [(piece.operator, piece.inputs, piece.output) for piece in collapse(nodes, CONSTANTS, CONSTANTS)]


def erf_of_x() -> list[NodeProto]:
    return [
        make_node("Div", ["x", "root2"], ["scaled"]),
        make_node("Erf", ["scaled"], ["erf"]),
        make_node("Add", ["erf", "one"], ["shifted"]),
    ]


def test_gelu_with_the_half_behind() -> None:
    nodes = [
        make_node("Conv", ["image", "weight"], ["x"], name="conv"),
        *erf_of_x(),
        make_node("Mul", ["x", "shifted"], ["product"]),
        make_node("Mul", ["product", "half"], ["y"], name="last"),
        make_node("Relu", ["y"], ["z"]),
    ]
    pieces = collapse(nodes, CONSTANTS, CONSTANTS)
    assert pieces == [
        Piece("conv", "Conv", ("image", "weight"), ("x",), nodes[0]),
        Piece("last", "Gelu", ("x",), ("y",), nodes[5]),
        Piece("z", "Relu", ("y",), ("z",), nodes[6]),
    ]


def test_gelu_with_the_half_in_front() -> None:
    half = make_node("Mul", ["x", "half"], ["halved"])
    product = make_node("Mul", ["halved", "shifted"], ["y"])
    assert collapsed(half, *erf_of_x(), product) == [("Gelu", ("x",), "y")]


def test_the_half_of_another_tensor_makes_no_gelu() -> None:
    half = make_node("Mul", ["other", "half"], ["halved"])
    product = make_node("Mul", ["halved", "shifted"], ["y"])
    found = collapsed(half, *erf_of_x(), product)
    assert [operator for operator, _, _ in found] == ["Mul", "Div", "Erf", "Add", "Mul"]


@pytest.mark.parametrize(("gate", "operator"), [("Sigmoid", "Silu"), ("HardSigmoid", "HardSwish")])
def test_gates_times_their_input(gate: str, operator: str) -> None:
    product = make_node("Mul", ["gate", "x"], ["y"])
    assert collapsed(make_node(gate, ["x"], ["gate"]), product) == [(operator, ("x",), "y")]
    foreign = make_node("Mul", ["gate", "other"], ["y"])
    assert [each[0] for each in collapsed(make_node(gate, ["x"], ["gate"]), foreign)] == [gate, "Mul"]
    read_twice = make_node("Relu", ["gate"], ["z"])
    assert [each[0] for each in collapsed(make_node(gate, ["x"], ["gate"]), product, read_twice)] == [
        gate,
        "Mul",
        "Relu",
    ]


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_layer_norm(square: str) -> None:
    nodes = [
        make_node("ReduceMean", ["x"], ["mean"]),
        make_node("Sub", ["x", "mean"], ["centred"]),
        make_node(square, ["centred", "two" if square == "Pow" else "centred"], ["squared"]),
        make_node("ReduceMean", ["squared"], ["variance"]),
        make_node("Add", ["variance", "epsilon"], ["safe"]),
        make_node("Sqrt", ["safe"], ["root"]),
        make_node("Div", ["centred", "root"], ["y"]),
    ]
    assert collapsed(*nodes) == [("LayerNormalization", ("x",), "y")]
    nodes[-1] = make_node("Div", ["other", "root"], ["y"])
    assert "LayerNormalization" not in [operator for operator, _, _ in collapsed(*nodes)]
