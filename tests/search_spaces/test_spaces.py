"""Golden invariants of every registered search space; a new space is tested by being registered."""

from __future__ import annotations

import time
from math import prod

import numpy as np
import pytest

from search_spaces import (
    SOURCE,
    Architecture,
    ArchitectureError,
    SearchSpace,
    SearchSpaceError,
    UnknownNameError,
    find_architecture,
    get_space,
    population_cost,
    population_peak_memory,
    registry,
    space_names,
)


@pytest.fixture(params=space_names())
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return get_space(request.param)


def test_json_round_trip_and_hash(space: SearchSpace) -> None:
    genotypes = space.sample(50, np.random.default_rng(0))
    architectures = space.decode(genotypes)
    for architecture in architectures:
        again = space.parse(Architecture.from_json(architecture.to_json()).to_dict())
        assert again == architecture
        assert hash(again) == hash(architecture)
    assert len(set(architectures)) == len(np.unique(genotypes, axis=0))
    assert (space.encode(architectures) == genotypes).all()


def test_json_key_order_does_not_matter(space: SearchSpace) -> None:
    data = space.middle.to_dict()
    data["choices"] = dict(reversed(data["choices"].items()))
    assert space.parse(data) == space.middle


def test_samples_are_valid_reproducible_and_use_every_value(space: SearchSpace) -> None:
    first, second = (space.sample(5000, np.random.default_rng(1)) for _ in range(2))
    assert (first == second).all()
    assert space.is_valid(first).all()
    for column, choice in enumerate(space.choices):
        assert len(np.unique(first[:, column])) == len(choice.values), choice.name


def test_repair_is_idempotent_and_keeps_valid_rows(space: SearchSpace) -> None:
    random = np.random.default_rng(2).integers(0, space.cardinalities, size=(500, len(space.choices))).astype(np.int8)
    repaired = space.repair(random)
    assert space.is_valid(repaired).all()
    valid = space.is_valid(random)
    assert (repaired[valid] == random[valid]).all()


def test_population_cost_equals_the_op_graph(space: SearchSpace) -> None:
    genotypes = space.sample(50, np.random.default_rng(3))
    cost = population_cost(space, genotypes)
    for architecture, params, macs in zip(space.decode(genotypes), cost.params, cost.macs, strict=True):
        graph = space.lower(architecture)
        assert (graph.params, graph.macs) == (params, macs)


def test_graph_is_connected_and_shapes_agree(space: SearchSpace) -> None:
    graph = space.lower(space.middle)
    view = graph.to_networkx()
    shapes = {op.name: op.output_shape for op in graph.ops()}
    for op in graph.ops():
        for name, shape in zip(op.inputs, op.input_shapes, strict=True):
            assert shapes.get(name, graph.source_shape) == shape, f"{op.name} reads {name}"
    ends = [name for name in view if view.out_degree(name) == 0]
    assert ends == [f"{graph.blocks[-1][0]}.{graph.blocks[-1][1][-1].name}"]


def test_population_peak_memory_is_the_most_that_is_alive_at_once(space: SearchSpace) -> None:
    genotypes = space.sample(30, np.random.default_rng(4))
    for architecture, peak in zip(space.decode(genotypes), population_peak_memory(space, genotypes), strict=True):
        graph = space.lower(architecture)
        ops = list(graph.ops())
        last_use = {name: position for position, op in enumerate(ops) for name in op.inputs}
        last_use[ops[-1].name] = len(ops)
        sizes = {SOURCE: prod(graph.source_shape), **{op.name: prod(op.output_shape) for op in ops}}
        born = {SOURCE: 0, **{op.name: position for position, op in enumerate(ops)}}
        alive = [
            sum(size for name, size in sizes.items() if born[name] <= position <= last_use.get(name, born[name]))
            for position in range(len(ops))
        ]
        assert peak == 4 * max(alive) == 4 * graph.peak_elements


def test_named_architectures_are_found(space: SearchSpace) -> None:
    for name, architecture in {**space.named, "smallest": space.smallest}.items():
        assert find_architecture(f"{space.name}/{name}") == (space, architecture)
    with pytest.raises(UnknownNameError, match="unknown architecture") as caught:
        space.find("smalest")
    assert "smallest" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("version"), "missing field 'version'"),
        (lambda data: data.update(space="other"), "belongs to space `other`"),
        (lambda data: data["choices"].pop(next(iter(data["choices"]))), "missing or unknown choices"),
        (lambda data: data["choices"].update(nonsense=1), "missing or unknown choices: nonsense"),
        (lambda data: data["choices"].update({next(iter(data["choices"])): -5}), "is -5, expected one of"),
        (lambda data: data["choices"].update({next(iter(data["choices"])): 1.5}), "expected a whole number"),
    ],
)
def test_foreign_architectures_are_refused(space: SearchSpace, change: object, message: str) -> None:
    data = space.smallest.to_dict()
    change(data)  # type: ignore[operator]
    with pytest.raises(ArchitectureError, match=message):
        space.parse(data)


def test_an_installation_without_entry_points_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: ())
    registry._kinds.cache_clear()
    try:
        assert get_space("elastic").name == "elastic"
        with pytest.raises(SearchSpaceError, match="no installed package declares a kind") as caught:
            get_space("timm:vit_tiny_patch16_224")
        assert "pip install -e ." in caught.value.hint
    finally:
        registry._kinds.cache_clear()


def test_unknown_space_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown search space: `elastik`") as caught:
        get_space("elastik")
    assert caught.value.hint == "did you mean `elastic`?"


def test_a_million_genotypes_cost_under_two_seconds() -> None:
    space = get_space("elastic")
    genotypes = space.sample(1_000_000, np.random.default_rng(0))
    population_cost(space, genotypes[:1])
    start = time.thread_time()
    population_cost(space, genotypes)
    assert time.thread_time() - start < 2.0
