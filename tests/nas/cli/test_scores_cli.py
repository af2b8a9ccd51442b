"""`nas score`: tables, JSON, failures that are named, and bad input."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from nas.cli.main import app
from nas.cli.score import score
from nas.networks.resolve import resolve_network
from nas.scores.measure import DEFAULT_BATCH_SIZE, DEFAULT_REPEATS, evaluate_scores
from nas.scores.subject import ScoreSubject
from nas.scores.untrained import MINIMUM_IMAGES

SMALL = "elastic-mini/smallest"


def nas(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["score", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def test_table_puts_size_first_and_one_column_per_network() -> None:
    code, table, messages = nas(SMALL, "elastic-mini/middle", "--scores", "naswot,depth", "--repeats", "2", "--quiet")
    assert code == 0
    rows = [line.split() for line in table.splitlines() if line.strip() and "─" not in line]
    assert rows[0] == ["score", SMALL, "elastic-mini/middle", "CPU", "s"]
    assert [row[0] for row in rows[1:]] == ["params", "macs", "naswot", "depth"]
    assert rows[3].count("±") == 2
    assert "standard deviation over repeats" in messages


def test_json_holds_what_the_library_gives() -> None:
    code, text, _ = nas(SMALL, "--scores", "snip", "--repeats", "2", "--seed", "4", "--batch-size", "4", "--json", "-q")
    document = json.loads(text)
    assert (code, document["schema"], document["seed"], document["repeats"], document["batch_size"]) == (0, 1, 4, 2, 4)
    (network,) = document["networks"]
    assert (network["name"], network["input_shape"]) == (SMALL, [3, 16, 16])
    subject = ScoreSubject.of(resolve_network(SMALL))
    expected = evaluate_scores(subject, ["params", "macs", "snip"], seed=4, repeats=2, batch_size=4)
    assert list(network["scores"]) == list(expected)
    for name, result in expected.items():
        found = network["scores"][name]
        assert found["value"] == result.value
        assert found["repeats"] == list(result.repeats)
        assert found["spread"] == (None if math.isnan(result.spread) else result.spread)
        assert found["failure"] is None


def test_failures_stand_below_the_table_and_others_are_given(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    sizes = {"weight": (4, 3, 3, 3), "head": (4 * 36, 2)}
    numbers = [numpy_helper.from_array(np.ones(size, dtype=np.float32), name) for name, size in sizes.items()]
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["map"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Flatten", ["map"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "head"], ["logits"], name="head"),
    ]
    shapes = [
        helper.make_tensor_value_info(*name_and_shape)
        for name_and_shape in (("image", TensorProto.FLOAT, (1, 3, 8, 8)), ("logits", TensorProto.FLOAT, (1, 2)))
    ]
    graph = helper.make_graph(nodes, "small", shapes[:1], shapes[1:], numbers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    code, table, messages = nas(str(path), "--scores", "depth,snip", "-q")
    assert code == 0
    assert [line.split()[1] for line in table.splitlines() if line.split()[:1] == ["snip"]] == ["none"]
    assert [line.split()[1] for line in table.splitlines() if line.split()[:1] == ["depth"]] == ["2"]
    assert "no `snip` of small.onnx: there is no module with weights to draw" in messages
    code, text, _ = nas(str(path), "--scores", "snip", "--json", "-q")
    assert json.loads(text)["networks"][0]["scores"]["snip"]["value"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SMALL, "--scores", "snipp"], "did you mean `snip`?"),
        ([SMALL, "--scores", " , "], "names no score"),
        (["elastic-mini/smalest"], "did you mean `smallest`?"),
        (["deit_tiny_patch16_225"], "did you mean `deit_tiny_patch16_224`?"),
        ([SMALL, "--image-size", "64"], "expected 16"),
        ([SMALL, "--repeats", "0"], "--repeats"),
        ([SMALL, "--batch-size", "3"], "--batch-size"),
        ([SMALL, "--seed", "-1"], "--seed"),
        ([], "NETWORK"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(arguments: list[str], message: str) -> None:
    code, table, messages = nas(*arguments)
    assert (code, table) == (2, "")
    assert message in messages


def test_defaults_are_the_librarys() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(score).parameters.items()}
    assert (defaults["repeats"], defaults["batch_size"]) == (DEFAULT_REPEATS, DEFAULT_BATCH_SIZE)
    assert MINIMUM_IMAGES == 4  # as `--batch-size` says
