"""What every search space has to keep: its architectures, its samples and its costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import pytest

from search_spaces import (
    SOURCE,
    Architecture,
    ArchitectureError,
    Genotypes,
    SearchSpace,
    UnknownNameError,
    population_cost,
    population_peak_memory,
)


class SearchSpaceContract(ABC):
    """What every search space has to do. Subclass it, give `make_space`, and let pytest find the subclass.

    Attributes:
        samples: Architectures that each test draws.
    """

    samples: int = 50

    @abstractmethod
    def make_space(self) -> SearchSpace:
        """The space; preferably the same object each time, since costs are tabulated per space."""

    def test_json_round_trip_and_equal_hash_of_equal_architectures(self) -> None:
        """What is written is read back, and codes as rows of indices agree with it."""
        space, genotypes = self._drawn(0)
        architectures = space.decode(genotypes)
        for architecture in architectures:
            again = space.parse(Architecture.from_json(architecture.to_json()).to_dict())
            assert again == architecture
            assert hash(again) == hash(architecture)
        assert (space.encode(architectures) == genotypes).all()

    def test_architectures_are_equal_exactly_if_their_networks_are(self) -> None:
        """Rules between choices leave one architecture to every network."""
        space, genotypes = self._drawn(0)
        architectures = set(space.decode(genotypes))
        networks = {
            (space.input_shape(dict(each.settings)), tuple(space.blocks(each)), space.lower(each).macs)
            for each in architectures
        }
        assert len(networks) == len(architectures) == len(np.unique(genotypes, axis=0))

    def test_json_key_order_does_not_matter(self) -> None:
        """Choices are told by their names."""
        space = self.make_space()
        data = space.middle.to_dict()
        data["choices"] = dict(reversed(data["choices"].items()))
        assert space.parse(data) == space.middle

    def test_samples_are_valid_reproducible_and_use_every_value(self) -> None:
        """The generator alone decides what is drawn."""
        space = self.make_space()
        first, second = (space.sample(5000, np.random.default_rng(1)) for _ in range(2))
        assert (first == second).all()
        assert space.is_valid(first).all()
        for column, choice in enumerate(space.choices):
            assert len(np.unique(first[:, column])) == len(choice.values), choice.name

    def test_repair_gives_valid_rows_and_keeps_valid_ones(self) -> None:
        """So repairing twice changes nothing further."""
        space = self.make_space()
        drawn = np.random.default_rng(2).integers(0, space.cardinalities, size=(500, len(space.choices)))
        genotypes = drawn.astype(np.int8)
        repaired = space.repair(genotypes.copy())
        assert space.is_valid(repaired).all()
        valid = space.is_valid(genotypes)
        assert (repaired[valid] == genotypes[valid]).all()

    def test_costs_of_populations_equal_the_op_graphs(self) -> None:
        """To the last parameter and MAC, for each network."""
        space, genotypes = self._drawn(3)
        cost = population_cost(space, genotypes)
        for architecture, params, macs in zip(space.decode(genotypes), cost.params, cost.macs, strict=True):
            graph = space.lower(architecture)
            assert (graph.params, graph.macs) == (params, macs)

    def test_op_graph_is_connected_and_shapes_agree(self) -> None:
        """Every operator reads what another one writes, and the last one alone is read by none."""
        space = self.make_space()
        graph = space.lower(space.middle)
        shapes = {op.name: op.output_shape for op in graph.ops()}
        for op in graph.ops():
            for name, shape in zip(op.inputs, op.input_shapes, strict=True):
                assert shapes.get(name, graph.source_shape) == shape, f"{op.name} reads {name}"
        read = {name for op in graph.ops() for name in op.inputs}
        assert [name for name in shapes if name not in read] == [list(shapes)[-1]]

    def test_peak_memory_is_the_most_that_is_alive_at_once(self) -> None:
        """A tensor is alive from the operator that writes it to the last one that reads it."""
        space, genotypes = self._drawn(4)
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

    def test_named_architectures_are_found(self) -> None:
        """Published ones, and those that every space has."""
        space = self.make_space()
        for name, architecture in {**space.named, "smallest": space.smallest, "largest": space.largest}.items():
            assert space.find(name) == architecture
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
    def test_foreign_architectures_are_refused(self, change: Callable[[dict[str, Any]], object], message: str) -> None:
        """By name, whatever is wrong."""
        space = self.make_space()
        data = space.smallest.to_dict()
        change(data)
        with pytest.raises(ArchitectureError, match=message):
            space.parse(data)

    def _drawn(self, seed: int) -> tuple[SearchSpace, Genotypes]:
        space = self.make_space()
        return space, space.sample(self.samples, np.random.default_rng(seed))
