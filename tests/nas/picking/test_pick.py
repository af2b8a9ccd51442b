"""Trained models by published accuracy and predicted latency."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import nas
from latency_tables import LatencyPredictor, load_target
from latency_tables.errors import NoEvidenceError, TableMissingError
from latency_tables.kernels import fuse
from latency_tables.runtimes.registry import RUNTIMES
from nas.errors import UsageError
from nas.networks.named import timm_network
from nas.objectives.quantities import get_quantity
from nas.picking.packed_graphs import GraphPacker, unpack
from nas.picking.page import render
from nas.picking.pick import NothingFitsError
from nas.picking.published import published_models
from nas.picking.words import loading, next_commands
from search_spaces import OpGraph, get_space
from search_spaces.errors import UnknownNameError
from tests.support.command_lines import parse

SMALL = ("mobilenetv3_small_050", "efficientformerv2_s0")
"""Quick to trace; convolutions, and attention with windows, views and residual branches."""


@pytest.mark.parametrize("target", ["pixel6", "raspberrypi5"])
def test_the_front_has_eight_models_within_the_limit_that_none_beats(target: str) -> None:
    found = nas.pick(target, limit_ms=30.0 if target == "pixel6" else None)
    assert len(found.front) >= 8
    assert found.recommended is (found.front[-1] if found.limits else found.recommended)
    for one in found.front:
        assert one.latency.high_ms <= found.limits.get(f"latency:{target}", np.inf)
        for other in found.models:
            is_better = other.latency.ms <= one.latency.ms and other.model.accuracy >= one.model.accuracy
            assert not is_better or (other.latency.ms, other.model.accuracy) == (one.latency.ms, one.model.accuracy)


@pytest.mark.parametrize("name", SMALL)
def test_latencies_sizes_and_quantities_are_those_of_the_traced_model(name: str) -> None:
    model = next(model for model in published_models() if model.name.partition(".")[0] == name)
    graph = timm_network(model.name, model.image_side).graph()
    assert (model.graph.params, model.graph.macs) == (graph.params, graph.macs)
    for quantity in ("peak-memory", "weight-bytes"):
        assert get_quantity(quantity).graph(model.graph) == get_quantity(quantity).graph(graph)
    for target in ("pixel6", "raspberrypi5", "jetson-orin-nano"):
        predictor = LatencyPredictor(load_target(target))
        once = predictor.graphs([model.graph, model.graph])
        assert once.ms == pytest.approx([predictor.graph(graph).ms] * 2, rel=1e-12)
        assert once.high_ms == pytest.approx([predictor.graph(graph).high_ms] * 2, rel=1e-12)


@pytest.mark.slow
def test_latencies_of_twenty_models_are_those_that_are_predicted() -> None:
    models = [model for model in published_models() if model.graph.macs < 5e9]
    for model in models[:: len(models) // 20]:
        graph = timm_network(model.name, model.image_side).graph()
        for target in ("pixel6", "raspberrypi5"):
            predictor = LatencyPredictor(load_target(target))
            assert predictor.graphs([model.graph]).ms[0] == pytest.approx(predictor.graph(graph).ms, rel=1e-12)


def test_models_that_are_said_to_be_searchable_are() -> None:
    models = published_models()
    assert 0.1 < np.mean([model.is_searchable for model in models]) < 0.7
    known = {model.name.partition(".")[0]: model.is_searchable for model in models}
    assert known["mobilenetv4_conv_small"]
    assert not known["semnasnet_100"]
    assert get_space("timm:mobilenetv4_conv_small").choices


def test_packed_graphs_fuse_into_the_same_kernels_for_every_runtime(tmp_path: Path) -> None:
    spaces = [get_space(name) for name in ("elastic-mini", "asvit-mini")]
    graphs = []
    for space in spaces:
        for architecture in space.decode(space.sample(4, np.random.default_rng(0))):
            ops = tuple(space.lower(architecture).ops())
            graphs.append(OpGraph([("model", ops)], space.input_shape(dict(architecture.settings))))
    packer = GraphPacker()
    numbers = [packer.add(graph) for graph in [*graphs, graphs[0]]]
    assert numbers[-1] == numbers[0]
    with (tmp_path / "graphs.npz").open("wb") as file:
        np.savez_compressed(file, **packer.arrays())
    unpacked = unpack(tmp_path / "graphs.npz")
    runs = Counter(id(ops) for graph in unpacked for _, ops in graph.blocks)
    assert max(runs.values()) > 1, "runs that repeat are one object"
    for number, graph in zip(numbers, graphs, strict=False):
        found = unpacked[number]
        assert found.source_shape == graph.source_shape
        assert (found.params, found.macs) == (graph.params, graph.macs)
        for fusion in {runtime.fusion for runtime in RUNTIMES.values()}:
            whole = [kernel.key for kernel in fuse(graph.blocks[0][1], fusion)]
            blocks = [tuple(found.ops())] if fusion.is_int8 else [ops for _, ops in found.blocks]
            assert [kernel.key for ops in blocks for kernel in fuse(ops, fusion)] == whole


def test_limits_hold_on_any_quantity_and_device_and_licences_and_sides_are_kept() -> None:
    limits = {"params": 12e6, "peak-memory": 20e6, "raspberrypi5": 400.0}
    found = nas.pick("pixel6", limits=limits, licences=["apache-2.0"], image_size=224)
    assert found.models
    assert {one.model.licence for one in found.models} == {"apache-2.0"}
    assert {one.model.image_side for one in found.models} == {224}
    other = LatencyPredictor(load_target("raspberrypi5"))
    for one in found.models:
        assert one.params <= 12e6
        assert get_quantity("peak-memory").graph(one.model.graph) <= 20e6
        assert other.graph(one.model.graph).high_ms <= 400.0
    assert set(found.limits) == {"params", "peak-memory", "latency:raspberrypi5"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"target": "pixel"}, UnknownNameError, "pixel"),
        ({"licences": ["apache"]}, UnknownNameError, "unknown licence: `apache`"),
        ({"limit_ms": 0.01}, NothingFitsError, "models is within the limits: the least latency:pixel6 of any is"),
        ({"image_size": 7}, NothingFitsError, "models has images of 7 px"),
        ({"limits": {"params": -1.0}}, UsageError, "the limit on `params` is -1"),
        ({"limits": {"pixel6": 5.0}, "limit_ms": 4.0}, UsageError, "two limits on `latency:pixel6`"),
    ],
)
def test_what_cannot_be_picked_says_why(given: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        nas.pick(**given)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_this_machine_is_measured_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    with pytest.raises(TableMissingError) as caught:
        nas.pick("local")
    assert "add `--build`: it measures networks of many kinds first" in caught.value.hint


def test_a_measured_table_leaves_out_models_unlike_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    shipped = load_target("raspberrypi5")
    provenance = shipped.provenance.model_copy(update={"kind": "measured", "transport": "ssh:board"})
    for name, rows in (("all", shipped.validation.rows), ("few", shipped.validation.rows[:1])):
        small = [row.model_copy(update={"macs": 10}) for row in rows] if name == "few" else rows
        validation = shipped.validation.model_copy(update={"rows": tuple(small)})
        changes = {"name": name, "aliases": (), "provenance": provenance, "validation": validation}
        shipped.model_copy(update=changes).save(tmp_path / "latency" / f"{name}.json")
    found = nas.pick("all")
    assert 0 < found.considered < len(published_models())
    assert not any(one.latency.extrapolated for one in found.models)
    assert any("further models are left out" in warning for warning in found.warnings)
    with pytest.raises(NoEvidenceError, match="it has no evidence for any of"):
        nas.pick("few")


def test_page_and_commands_name_the_recommended_model_and_can_be_typed() -> None:
    found = nas.pick("pixel6", limit_ms=60.0, limits={"params": 30e6})
    page = render(found)
    assert all(one.model.name in page for one in found.front)
    assert "<script src" not in page
    assert loading(found).startswith(f"timm.create_model('{found.recommended.model.name}', pretrained=True)")
    commands = next_commands(found)
    assert len(commands) == 2
    assert parse(shlex.split(commands[1])[1:])["limits"] == ["60ms", "params=30000000"]
    assert parse(shlex.split(commands[0])[1:])["image_size"] == found.recommended.model.image_side


def test_the_command_prints_one_document_and_writes_a_page(tmp_path: Path) -> None:
    program = [sys.executable, "-c", "import sys; sys.argv[0] = 'nas'; from nas.cli.main import main; main()"]
    command = [*program, "pick", "--limit", "30ms", "--report", "page.html", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    document = json.loads(found.stdout)
    assert document["limits"] == {"latency:pixel6": 30.0}
    assert document["recommended"] in document["front"]
    assert document["recommended"]["model"] in (tmp_path / "page.html").read_text(encoding="utf-8")
