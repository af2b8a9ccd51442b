"""`nas inspect`: the operators of a network, and its op graph as files."""

from __future__ import annotations

import json
from pathlib import Path

import networkx
import pytest
from typer.testing import CliRunner

from nas.cli.main import app
from nas.errors import UsageError
from nas.networks.drawing import write_graph
from search_spaces import get_space
from search_spaces.graph import OpGraph


@pytest.fixture(scope="module")
def graph() -> OpGraph:
    space = get_space("elastic-mini")
    return space.lower(space.smallest)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["inspect", "elastic-mini/smallest", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_operators_are_listed_with_their_share(graph: OpGraph) -> None:
    found = json.loads(run("--json"))
    assert (found["params"], found["macs"]) == (graph.params, graph.macs)
    assert [entry["name"] for entry in found["ops"]] == [op.name for op in graph.ops()]
    assert sum(entry["macs"] for entry in found["ops"]) == graph.macs
    assert sum(entry["share"] for entry in found["ops"]) == pytest.approx(1.0)
    table = run()
    assert all(entry["name"] in table for entry in found["ops"])


@pytest.mark.parametrize("name", ["graph.graphml", "graph.json"])
def test_networkx_reads_the_file_back(graph: OpGraph, tmp_path: Path, name: str) -> None:
    run("--graph", str(tmp_path / name))
    if name.endswith(".json"):
        read = networkx.node_link_graph(json.loads((tmp_path / name).read_text()), edges="edges")
    else:
        read = networkx.read_graphml(tmp_path / name)
    assert set(read.edges) == set(graph.to_networkx().edges)
    assert sum(macs for _, macs in read.nodes(data="macs", default=0)) == graph.macs == read.graph["macs"]
    first = next(iter(graph.ops()))
    assert read.nodes[first.name]["shape"] == " x ".join(map(str, first.output_shape))


def test_graphviz_file_has_every_operator_and_edge(graph: OpGraph, tmp_path: Path) -> None:
    write_graph(graph, tmp_path / "graph.dot")
    lines = (tmp_path / "graph.dot").read_text().splitlines()
    first = next(iter(graph.ops()))
    shape = " x ".join(map(str, first.output_shape))
    assert f'  "{first.name}" [label="{first.name}\\n{first.kind}\\n{shape}"];' in lines
    assert f'  "input" -> "{first.name}";' in lines
    assert sum("->" in line for line in lines) == graph.to_networkx().number_of_edges()
    assert (lines[0], lines[-1]) == ("digraph {", "}")


def test_other_endings_are_refused(graph: OpGraph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"found ending `\.png`, expected one of \.dot, \.graphml, \.json") as caught:
        write_graph(graph, tmp_path / "graph.png")
    assert "dot -Tsvg" in caught.value.hint
    assert not list(tmp_path.iterdir())
