"""What an importer is, and what all of them need: tensors found in a file, held against what is expected, narrowed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from search_spaces import BlockSpec, SearchSpace
from supernets.axes import JOINED, parse_axes
from supernets.errors import CheckpointError
from supernets.family import NetworkFamily
from supernets.narrowing import make_narrowing
from supernets.supernet import Supernet
from supernets.timm_models.weight_files import find_weights, read_weights

WRAPPER = "module."
"""What names begin with where a network was wrapped for several processes."""
_NAMED = 4


@dataclass(frozen=True)
class Origin:
    """Where published weights are from.

    Attributes:
        title: Name of the supernet and of its paper's authors.
        paper: Number of the paper on arXiv.
        page: Page of the authors that leads to their files.
        license: Licence that the authors give them under.
        accuracies: Published top-1 accuracy on ImageNet in percent, by the name of a network in the space.
        remarks: What a user should know of the weights, a sentence each.
    """

    title: str
    paper: str
    page: str
    license: str
    accuracies: Mapping[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a file holds.

    Attributes:
        file: The file.
        content: What was saved, by name.
    """

    file: Path
    content: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path) -> Found:
        """Read a file or folder of weights; nothing in it is ever run.

        Raises:
            CheckpointError: It cannot be read.
        """
        file = find_weights(path)
        return cls(file, read_weights(file))

    def tensors(self, places: Sequence[str]) -> Mapping[str, Tensor]:
        """The tensors at the first of ``places`` that holds some, else those of the file itself, by name."""
        for place in places:
            held = self.content.get(place)
            if isinstance(held, Mapping) and (tensors := _plain(held)):
                return tensors
        return _plain(self.content)

    def noted(self, name: str) -> Mapping[str, Any]:
        """The attributes of an object that was saved beside the weights, as far as they are plain values."""
        held = self.content.get(name)
        attributes = vars(held) if hasattr(held, "__dict__") else {}
        return {**attributes, **held} if isinstance(held, Mapping) else attributes


@dataclass(frozen=True)
class Imported:
    """A supernet out of somebody else's file.

    Attributes:
        supernet: The supernet.
        origin: Where the weights are from.
        layout: How its tensors are laid out, as `supernets.NetworkFamily.laid_out` calls it; empty for our own way.
        notes: What of the reading should be said, a sentence each.
    """

    supernet: Supernet
    origin: Origin
    layout: str = ""
    notes: tuple[str, ...] = ()


class Importer(Protocol):
    """Reads the files of one kind of supernet.

    Another package offers one as an entry point `nas.importers`, whose object is an `Importer`.
    """

    @property
    def expected(self) -> str:
        """The files that it reads, in words for messages."""
        ...

    def recognises(self, found: Found, space: str | None) -> bool:
        """Whether a file is of this kind, by the names of its tensors.

        Args:
            found: What the file holds.
            space: Name of the space that the user says it is of; None where nobody says.
        """
        ...

    def read(self, found: Found, space: str | None) -> Imported:
        """The supernet in a file that it recognises.

        Raises:
            CheckpointError: Tensors are missing, are too many, or have other shapes.
        """
        ...


def check_tensors(
    found: Found, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], spare: str = ""
) -> None:
    """Make sure that a file holds what a supernet consists of, and nothing else.

    Args:
        found: The file, for messages.
        tensors: Its tensors by name.
        expected: Shape of each that must be there.
        spare: Pattern of the names of those that may be there too.

    Raises:
        CheckpointError: A tensor is missing, unknown, of another shape, or holds a number that is not finite.
    """
    missing = sorted(expected.keys() - tensors.keys())
    unknown = sorted(name for name in tensors.keys() - expected.keys() if not (spare and re.search(spare, name)))
    for names, what in ((missing, "lacks"), (unknown, "has, beside what is known,")):
        if names:
            raise CheckpointError(
                f"weights `{found.file}`: the file {what} {_listed(names)}",
                hint="expected the supernet as its authors' published command trains it; take their own file",
            )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"weights `{found.file}`: tensor `{name}`: found {tuple(tensors[name].shape)}, expected {shape}",
                hint="the supernet has another size than those that were published",
            )
        if tensors[name].is_floating_point() and not tensors[name].isfinite().all():
            raise CheckpointError(
                f"weights `{found.file}`: tensor `{name}` holds numbers that are not finite",
                hint="the file is damaged, or its training failed; take another copy",
            )


def published_shape(axes: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape that a tensor has in a block of another size.

    Args:
        axes: Description of its axes.
        shape: Its shape in some block; taken where no axis is named.
        sizes: Size of each named axis in the other block.
    """
    sides = []
    for dimension, own in zip(parse_axes(axes), shape, strict=True):
        named = [sizes[axis.name] for axis in dimension if axis.name]
        sides.append(own if not named else sum(named) if dimension[0].mode == JOINED else prod(named))
    return tuple(sides)


def published_shapes(
    space: SearchSpace, family: NetworkFamily, blocks: Mapping[str, BlockSpec]
) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a published supernet, by the name that ours has for it.

    Args:
        space: The space.
        family: Family of its networks.
        blocks: The published blocks by name; each is at least as large as the shared one.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for block, spec in space.shared_blocks():
        with torch.device("meta"):
            own = family.build_block(spec).state_dict(keep_vars=True)
        axes, sizes = family.axes(spec), family.sizes(blocks[block])
        shapes |= {f"{block}.{name}": published_shape(axes[name], tuple(t.shape), sizes) for name, t in own.items()}
    return shapes


@torch.no_grad()
def narrowed(space: SearchSpace, blocks: Mapping[str, BlockSpec], tensors: Mapping[str, Tensor]) -> Supernet:
    """The supernet of a space, out of the tensors of a published one that may be larger than any network searched.

    Args:
        space: The space.
        blocks: The published blocks by name.
        tensors: Their tensors, by the names that ours have.
    """
    supernet = Supernet(space)
    for block, spec in space.shared_blocks():
        axes, full, active = (
            supernet.family.axes(spec),
            supernet.family.sizes(blocks[block]),
            supernet.family.sizes(spec),
        )
        for name, own in supernet.network.get_submodule(block).state_dict(keep_vars=True).items():
            tensor = tensors[f"{block}.{name}"]
            own.copy_(make_narrowing(axes[name], tuple(tensor.shape), full, active).narrow(tensor))
    return supernet.eval()


def number_of(names: Mapping[str, Any], pattern: str) -> int:
    """How many blocks a file has: one more than the largest number that ``pattern`` finds in its names."""
    numbers = [int(match[1]) for match in (re.match(pattern, name) for name in names) if match]
    return max(numbers, default=-1) + 1


def _plain(held: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a dictionary in single precision, without the name of a wrapper in front."""
    tensors = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    while tensors and all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name.removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown
