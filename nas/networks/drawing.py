"""A network's op graph as a file that graph programs read and draw, and as rows of operators."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx

from nas.errors import UsageError
from nas.records.files import write_failed
from search_spaces.graph import SOURCE, Op, OpGraph, Shape


def write_graph(graph: OpGraph, path: Path) -> None:
    """Write an op graph: ``.dot`` for Graphviz, ``.graphml`` for graph editors, ``.json`` (node-link) for programs.

    Args:
        graph: The op graph.
        path: File to write; its ending names the form.

    Raises:
        UsageError: The ending is none of these.
        NasError: The file cannot be written.
    """
    form = _FORMS.get(path.suffix)
    if form is None:
        raise UsageError(
            f"graph file `{path}`: found ending `{path.suffix}`, expected one of {', '.join(_FORMS)}",
            hint="Graphviz draws pictures of a .dot file: `dot -Tsvg graph.dot -o graph.svg`",
        )
    try:
        path.write_text(form(graph), encoding="utf-8")
    except OSError as error:
        raise write_failed(path, error) from error


def op_entries(graph: OpGraph) -> list[dict[str, Any]]:
    """The operators in the order in which they run, ready for JSON; ``share`` is that of the network's MACs."""
    return [{"name": op.name, **_facts(op), "share": op.macs / graph.macs if graph.macs else 0.0} for op in graph.ops()]


def _plain(graph: OpGraph) -> networkx.DiGraph:
    """The graph with attributes that files can hold, instead of operators."""
    view = graph.to_networkx()
    plain = networkx.DiGraph(params=graph.params, macs=graph.macs)
    for name, op in view.nodes(data="op"):
        plain.add_node(
            name, **({"kind": SOURCE, "shape": shape_text(graph.source_shape)} if op is None else _facts(op))
        )
    plain.add_edges_from(view.edges)
    return plain


def _facts(op: Op) -> dict[str, Any]:
    facts = {"kind": op.kind, "shape": shape_text(op.output_shape), "params": op.params, "macs": op.macs}
    return {**facts, **({"function": op.function} if op.function else {})}


def shape_text(shape: Shape) -> str:
    """``64 x 28 x 28``."""
    return " x ".join(map(str, shape))


def _dot(graph: OpGraph) -> str:
    view = _plain(graph)
    lines = ["digraph {", "  node [shape=box];"]
    for name, facts in view.nodes(data=True):
        kind = f"{facts['kind']} {facts['function']}" if "function" in facts else facts["kind"]
        label = "\\n".join(_quoted(part) for part in dict.fromkeys((name, kind, facts["shape"])))
        lines.append(f'  "{_quoted(name)}" [label="{label}"];')
    lines += [f'  "{_quoted(source)}" -> "{_quoted(target)}";' for source, target in view.edges]
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    """A text as it stands between Graphviz's quotes; names of an ONNX file may hold anything."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")


def _graphml(graph: OpGraph) -> str:
    return "\n".join(networkx.generate_graphml(_plain(graph))) + "\n"


def _json(graph: OpGraph) -> str:
    return json.dumps(networkx.node_link_data(_plain(graph), edges="edges"), indent=1) + "\n"


_FORMS: dict[str, Callable[[OpGraph], str]] = {".dot": _dot, ".graphml": _graphml, ".json": _json}
