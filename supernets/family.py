"""What a supernet must know about a family of networks: its modules and the axes of their tensors."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from torch import nn

from search_spaces import Architecture, BlockSpec, SearchSpace, SingleSpace
from supernets.errors import SupernetError


class NetworkFamily(Hashable, Protocol):
    """Modules and axes of one family of networks; specs are of the family's own classes."""

    source_file: str
    """Path of the module file that travels beside exported weights."""

    class_name: str
    """The network's class in that file."""

    def build_block(self, spec: Any) -> nn.Module:
        """The ordinary module of one block."""
        ...

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The ordinary module of a whole network; it has ``block_names`` and ``input_side``."""
        ...

    def axes(self, spec: Any) -> Mapping[str, str]:
        """The axis description of every parameter and persistent buffer of a block (see `supernets.axes`)."""
        ...

    def sizes(self, spec: Any) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""
        ...

    def prepare(self, x_BCHW: Any, input_side: int) -> Any:
        """Images to the side that the network computes on."""
        ...


_families: dict[type[SearchSpace], NetworkFamily] = {}


def register_family(space_type: type[SearchSpace], family: NetworkFamily) -> None:
    """Say which family builds the networks of a kind of space."""
    _families[space_type] = family


def family_of(space: SearchSpace) -> NetworkFamily:
    """The family that builds the networks of ``space``.

    Raises:
        SupernetError: None is registered.
    """
    if isinstance(space, SingleSpace):
        return family_of(space.base)
    for space_type in type(space).__mro__:
        if space_type in _families:
            return _families[space_type]
    raise SupernetError(
        f"space `{space.name}` has no network family",
        hint="register one with `supernets.register_family`",
    )


def network_config(space: SearchSpace, architecture: Architecture) -> dict[str, Any]:
    """The JSON-ready description from which the family's network class builds the architecture."""
    input_side = space.input_shape(dict(architecture.settings))[-1]
    return blocks_config(input_side, space.classes, space.blocks(architecture))


def blocks_config(input_side: int, classes: int, blocks: Iterable[tuple[str, BlockSpec]]) -> dict[str, Any]:
    """The JSON-ready description of a network with these blocks."""
    return {
        "input_side": input_side,
        "classes": classes,
        "blocks": [
            {"name": name, "kind": type(spec).__name__, **asdict(spec)}  # type: ignore[call-overload]
            for name, spec in blocks
        ],
    }


def build_network(space: SearchSpace, architecture: Architecture) -> nn.Module:
    """A freshly initialised ordinary module of ``architecture``, on the current default device."""
    return family_of(space).build_network(network_config(space, architecture))
