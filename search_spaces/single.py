"""A space that holds one network of another space, so that whatever works on spaces works on a single network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from search_spaces.architecture import Architecture
from search_spaces.graph import Shape
from search_spaces.space import BlockSpec, Choice, SearchSpace, Slot


class SingleSpace(SearchSpace):
    """The space that holds nothing but ``architecture``.

    Its architecture is one of ``base``, under the same name and version, and every choice has one value.

    Args:
        base: The space of the network.
        architecture: A valid architecture of ``base``.
    """

    architecture: Architecture

    def __init__(self, base: SearchSpace, architecture: Architecture) -> None:
        self._base = base
        self.architecture = architecture = base.updated(architecture)
        self.name = base.name
        self.version = base.version
        self.description = f"one network of {base.name}"
        self.image_side = base.image_side
        self.classes = base.classes

    @property
    def base(self) -> SearchSpace:
        """The space of the network."""
        return self._base

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The choices of ``base``, each with the network's value."""
        values = dict(self.architecture.settings)
        return tuple(
            Choice(choice.name, (values[choice.name],), choice.labels and (choice.label(values[choice.name]),))
            for choice in self._base.choices
        )

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of ``base``."""
        return self._base.slots

    def block(self, slot: str, values: Mapping[str, int]) -> BlockSpec | None:
        """The block in ``slot``."""
        return self._base.block(slot, values)

    def coarse_blocks(self, architecture: Architecture, patch_stride: int) -> Iterator[tuple[str, BlockSpec]]:
        """The blocks with the same weights on patches that are ``patch_stride`` times as far apart."""
        return self._base.coarse_blocks(architecture, patch_stride)

    def updated(self, architecture: Architecture) -> Architecture:
        """The same network as this version of ``base`` describes it."""
        return self._base.updated(architecture)

    def input_shape(self, values: Mapping[str, int]) -> Shape:
        """``(channels, side, side)`` of the image that the network computes on."""
        return self._base.input_shape(values)
