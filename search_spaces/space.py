"""Search spaces: choices, genotype arrays and the blocks that an architecture is made of.

Legend of array suffixes: n genotypes, c choices. A genotype is a row of indices into each choice's values; a
population is one ``int8`` array ``[n, c]``, and everything here works on the array, never on one row at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Protocol

import numpy as np
import numpy.typing as npt

from search_spaces.architecture import Architecture
from search_spaces.errors import ArchitectureError, SearchSpaceError, UnknownNameError
from search_spaces.graph import Op, OpGraph, Shape

Genotypes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Choice:
    """One searchable dimension: a name and its candidate values, from the smallest network to the largest.

    Attributes:
        name: Name of the choice.
        values: Candidate values, ascending; or descending, where a larger number makes a smaller network, as the side
            of patches does. In a choice with labels they are codes, whose order means nothing.
        labels: Names of the codes of an unordered choice, such as the kinds of an operator; empty where the values are
            sizes.
    """

    name: str
    values: tuple[int, ...]
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.values) <= 127:
            raise ValueError(f"choice `{self.name}`: {len(self.values)} values, expected 1 to 127")
        ascending = sorted(set(self.values))
        if list(self.values) not in (ascending, ascending[::-1]):
            raise ValueError(
                f"choice `{self.name}`: values must ascend, or descend, without repetition, found {self.values}"
            )
        if self.labels and len(set(self.labels)) != len(self.values):
            raise ValueError(
                f"choice `{self.name}`: {len(self.values)} values need as many labels, found {self.labels}"
            )

    @property
    def is_ordered(self) -> bool:
        """Whether the values are sizes, so that neighbouring ones give similar networks."""
        return not self.labels

    def label(self, value: int) -> str:
        """The name of a value: its label, or the number itself."""
        return self.labels[self.values.index(value)] if self.labels else str(value)

    def code(self, label: str) -> int:
        """The value that ``label`` names.

        Raises:
            ArchitectureError: The choice has no such label.
        """
        if label not in self.labels:
            expected = ", ".join(self.labels) or "a whole number"
            raise ArchitectureError(f"choice `{self.name}` is `{label}`, expected one of: {expected}")
        return self.values[self.labels.index(label)]


class BlockSpec(Hashable, Protocol):
    """The size of one block: a frozen, hashable dataclass of plain numbers.

    The same object lowers to operators here and is built as a module by the supernet's package.
    """

    def ops(self) -> tuple[Op, ...]:
        """The block's operators; the last one's output is the block's output."""
        ...


@dataclass(frozen=True)
class Slot:
    """A place in the network that holds a run of equal blocks.

    Attributes:
        name: Name of the slot. A slot without ``repeats`` holds one block of this name; a slot with it holds blocks
            named ``name.start``, ``name.start+1``, and so on.
        choices: Names of the choices that fix the block's size.
        repeats: The choice that says how many blocks of this name stand in a row, counted from ``name.0``.
        start: Number of the slot's first block: 1 where the first of the row is of another size and has a slot of
            its own.
        stop: Number before which the slot's row ends, however large ``repeats`` is; None where nothing ends it.
        row: Name that the blocks of a row have in place of ``name``, where several slots share one row: every second
            block has another choice of its operator, say.
    """

    name: str
    choices: tuple[str, ...]
    repeats: str | None = None
    start: int = 0
    stop: int | None = None
    row: str = ""


class SearchSpace(ABC):
    """A named, versioned, finite set of architectures: choices, the rules that tie them, and the blocks they make.

    A new space gives `choices`, `slots` and `block`; where choices depend on each other also `repair`.
    """

    name: str
    version: int = 1
    older_version: int | None = None
    """The version before whose networks and weights are still the space's, see `updated`; None where none is."""
    description: str = ""
    image_side: int
    """Side in pixels at which images are loaded, for training and for accuracy."""
    classes: int
    representatives: tuple[str, ...] = ("smallest", "middle", "largest")
    """Names of the networks that say how well a trained supernet of the space does."""
    architecture: Architecture | None = None
    """The one network that the space holds; None for a space to search in."""

    @property
    def base(self) -> SearchSpace:
        """The space that this one is a part of: itself, but for a space of one network."""
        return self

    @property
    @abstractmethod
    def choices(self) -> tuple[Choice, ...]:
        """The searchable dimensions, in genotype order."""

    @property
    @abstractmethod
    def slots(self) -> tuple[Slot, ...]:
        """The network's blocks from input to output."""

    @abstractmethod
    def block(self, slot: str, values: Mapping[str, int]) -> BlockSpec | None:
        """The block in ``slot`` when its choices have ``values``; None where the choices leave it out."""

    @abstractmethod
    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """Shape ``(channels, side, side)`` of the image that the network computes on."""

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """The nearest genotypes that satisfy the rules between choices, in canonical form; valid rows are kept."""
        return genotypes

    @property
    def named(self) -> Mapping[str, Architecture]:
        """Published networks of the space by name."""
        return {}

    @property
    def related(self) -> Mapping[str, Architecture]:
        """Published networks of other spaces that `find` gives as well, by name."""
        return {}

    # -- choices -------------------------------------------------------------------------------------------------

    @property
    def nucleus(self) -> Mapping[str, int]:
        """The index of the value at which a training may hold a choice at first, by the choice's name.

        Networks with these values learn quickly; the other choices are what the space is about. Empty where a space
        has no such values.
        """
        return {}

    @cached_property
    def columns(self) -> dict[str, int]:
        """The genotype column of each choice."""
        return {choice.name: column for column, choice in enumerate(self.choices)}

    @cached_property
    def cardinalities(self) -> npt.NDArray[np.int64]:
        """The number of values of each choice, ``[c]``."""
        return np.array([len(choice.values) for choice in self.choices], dtype=np.int64)

    @property
    def encodings(self) -> int:
        """The number of encodings, an upper bound on the number of architectures where rules tie the choices."""
        return prod(len(choice.values) for choice in self.choices)

    def values(self, genotypes: Genotypes, choice: str) -> npt.NDArray[np.int64]:
        """The values that ``genotypes`` ``[n, c]`` give to one choice, ``[n]``."""
        column = self.columns[choice]
        return np.array(self.choices[column].values, dtype=np.int64)[genotypes[:, column]]

    # -- populations ---------------------------------------------------------------------------------------------

    def is_valid(self, genotypes: Genotypes) -> npt.NDArray[np.bool_]:
        """Which rows ``[n]`` are in range and satisfy the rules between choices."""
        valid = np.all((genotypes >= 0) & (genotypes < self.cardinalities), axis=1)
        valid[valid] = np.all(self.repair(genotypes[valid]) == genotypes[valid], axis=1)
        return np.asarray(valid, dtype=np.bool_)

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Draw ``count`` valid genotypes uniformly, by rejection; ``[count, c]``."""
        accepted: list[Genotypes] = []
        missing = count
        while missing > 0:
            drawn = generator.integers(0, self.cardinalities, size=(2 * missing + 16, len(self.choices)))
            genotypes = drawn.astype(np.int8)
            accepted.append(genotypes[self.is_valid(genotypes)][:missing])
            missing -= len(accepted[-1])
        return np.concatenate(accepted) if accepted else np.empty((0, len(self.choices)), dtype=np.int8)

    @cached_property
    def smallest(self) -> Architecture:
        """The architecture with every choice at its smallest value, labelled ones at their first."""
        return self.decode(self.repair(np.zeros((1, len(self.choices)), dtype=np.int8)))[0]

    @cached_property
    def middle(self) -> Architecture:
        """The architecture with every choice at its middle value."""
        return self.decode(self.repair(((self.cardinalities - 1) // 2).astype(np.int8)[None]))[0]

    @cached_property
    def largest(self) -> Architecture:
        """The architecture with every choice at its largest value, labelled ones at their last."""
        return self.decode(self.repair((self.cardinalities - 1).astype(np.int8)[None]))[0]

    # -- architectures -------------------------------------------------------------------------------------------

    def decode(self, genotypes: Genotypes) -> list[Architecture]:
        """The architectures of valid genotypes ``[n, c]``.

        Raises:
            ArchitectureError: A row is out of range or breaks a rule of the space.
        """
        bad = np.flatnonzero(~self.is_valid(genotypes))
        if len(bad):
            raise ArchitectureError(
                f"space `{self.name}`: genotype {genotypes[bad[0]].tolist()} is out of range or breaks a rule between"
                " choices; `repair` gives the nearest valid one"
            )
        names = [choice.name for choice in self.choices]
        columns = [self.values(genotypes, name).tolist() for name in names]
        return [
            Architecture(self.name, self.version, tuple(zip(names, values, strict=True)))
            for values in zip(*columns, strict=True)
        ]

    def encode(self, architectures: Sequence[Architecture]) -> Genotypes:
        """The genotypes ``[n, c]`` of architectures of this space.

        Raises:
            ArchitectureError: One of them is of another space or version, or has a value that no choice offers.
        """
        genotypes = np.empty((len(architectures), len(self.choices)), dtype=np.int8)
        for row, architecture in enumerate(architectures):
            genotypes[row] = self._indices(architecture)
        return genotypes

    def updated(self, architecture: Architecture) -> Architecture:
        """The same network as this version of the space describes it; what is of no older version is given back."""
        return architecture

    def parse(self, data: Mapping[str, object]) -> Architecture:
        """Read and check an architecture of this space from its JSON form, which may have labels in place of codes.

        Raises:
            ArchitectureError: It cannot be read, or is not a valid architecture of this space.
        """
        given = data.get("choices")
        if isinstance(given, Mapping):
            data = {**data, "choices": {name: self._code(name, value) for name, value in given.items()}}
        architecture = Architecture.from_dict(data)
        return self.decode(self.encode([architecture]))[0]

    def from_values(self, values: Mapping[str, int | str]) -> Architecture:
        """The architecture with the given value, or label, for every choice."""
        return self.parse({"space": self.name, "version": self.version, "choices": dict(values)})

    def labels(self, architecture: Architecture) -> dict[str, str]:
        """What an architecture of this space chose, in words, by choice."""
        return {choice.name: choice.label(architecture[choice.name]) for choice in self.choices}

    def find(self, name: str) -> Architecture:
        """The published architecture called ``name``, or `smallest`, `middle`, `largest`."""
        special = {"smallest": self.smallest, "middle": self.middle, "largest": self.largest}
        table = {**special, **self.related, **self.named}
        if name not in table:
            raise UnknownNameError(f"architecture of space `{self.name}`", name, table)
        return table[name]

    def from_text(self, text: str) -> Architecture:
        """The architecture that ``text`` names in the space's own short form; most spaces have none.

        Raises:
            ArchitectureError: The space has no such form, or the text names no network of it.
        """
        raise ArchitectureError(f"space `{self.name}` has no short form for architectures, found `{text}`")

    def _code(self, name: str, value: object) -> object:
        if not isinstance(value, str) or name not in self.columns:
            return value
        return self.choices[self.columns[name]].code(value)

    def _indices(self, architecture: Architecture) -> list[int]:
        architecture = self.updated(architecture)
        if (architecture.space, architecture.version) != (self.name, self.version):
            raise ArchitectureError(
                f"architecture belongs to space `{architecture.space}` version {architecture.version}, expected"
                f" `{self.name}` version {self.version}"
            )
        given = dict(architecture.settings)
        if set(given) != set(self.columns):
            odd = sorted(set(given) ^ set(self.columns))
            raise ArchitectureError(f"architecture of `{self.name}`: missing or unknown choices: {', '.join(odd)}")
        indices = []
        for choice in self.choices:
            if given[choice.name] not in choice.values:
                raise ArchitectureError(
                    f"architecture of `{self.name}`: `{choice.name}` is {given[choice.name]}, expected one of"
                    f" {', '.join(map(str, choice.values))}"
                )
            indices.append(choice.values.index(given[choice.name]))
        return indices

    # -- blocks and graph ----------------------------------------------------------------------------------------

    def blocks(self, architecture: Architecture) -> Iterator[tuple[str, BlockSpec]]:
        """The named blocks of an architecture, from input to output."""
        values = dict(architecture.settings)
        for slot in self.slots:
            spec = self.block(slot.name, values)
            if spec is None:
                continue
            if slot.repeats is None:
                yield slot.name, spec
                continue
            end = values[slot.repeats] if slot.stop is None else min(values[slot.repeats], slot.stop)
            for number in range(slot.start, end):
                yield f"{slot.row or slot.name}.{number}", spec

    def shared_blocks(self) -> Iterator[tuple[str, BlockSpec]]:
        """The named blocks that hold the tensors which the networks share: by default those of the largest network.

        Where a labelled choice decides what a block is, no network has the tensors of all alternatives. A space with
        such a slot gives the slot's union instead: a spec with every alternative's tensors, each at its largest, which
        is built as a module and never run.
        """
        return self.blocks(self.largest)

    def coarse_blocks(self, architecture: Architecture, patch_stride: int) -> Iterator[tuple[str, BlockSpec]]:
        """The blocks with the same weights on patches that are ``patch_stride`` times as far apart; 1 changes nothing.

        Raises:
            SearchSpaceError: The space has no patch embedding whose stride can change.
        """
        if patch_stride > 1:
            raise SearchSpaceError(f"space `{self.name}` has no patch embedding whose stride can change")
        return self.blocks(architecture)

    def lower(self, architecture: Architecture, patch_stride: int = 1) -> OpGraph:
        """The op graph of one architecture, on coarser patches where asked, see `coarse_blocks`."""
        blocks = [(name, spec.ops()) for name, spec in self.coarse_blocks(architecture, patch_stride)]
        return OpGraph(blocks, self.input_shape(dict(architecture.settings)))
