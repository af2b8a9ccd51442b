"""Search spaces by name: ours, and those that other packages register as entry points `nas.search_spaces`."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points

from search_spaces.architecture import Architecture
from search_spaces.asvit import ASVIT, ASVIT_GROWN, ASVIT_MINI, AsvitSpace
from search_spaces.elastic import ELASTIC, ELASTIC_MINI, ElasticSpace
from search_spaces.errors import UnknownNameError
from search_spaces.space import SearchSpace

SpaceFactory = Callable[[int | None], SearchSpace]
"""Makes a space for a number of classes; None takes the space's own."""

_factories: dict[str, SpaceFactory] = {
    "asvit": lambda classes: AsvitSpace(ASVIT, classes),
    "asvit-grown": lambda classes: AsvitSpace(ASVIT_GROWN, classes),
    "asvit-mini": lambda classes: AsvitSpace(ASVIT_MINI, classes),
    "elastic": lambda classes: ElasticSpace(ELASTIC, classes),
    "elastic-mini": lambda classes: ElasticSpace(ELASTIC_MINI, classes),
}
_spaces: dict[tuple[str, int | None], SearchSpace] = {}


def register(name: str, factory: SpaceFactory) -> None:
    """Register a space under ``name``.

    Raises:
        ValueError: The name is taken.
    """
    if name in _all_factories():
        raise ValueError(f"search space `{name}` is registered already")
    _factories[name] = factory


def space_names() -> list[str]:
    """The names of all registered spaces."""
    return sorted(_all_factories())


def get_space(name: str, classes: int | None = None) -> SearchSpace:
    """The space called ``name``; the same object for the same arguments.

    Raises:
        UnknownNameError: Nothing is registered under the name.
    """
    factories = _all_factories()
    if name not in factories:
        raise UnknownNameError("search space", name, factories)
    key = (name, classes)
    if key not in _spaces:
        _spaces[key] = factories[name](classes)
    return _spaces[key]


def find_architecture(reference: str, classes: int | None = None) -> tuple[SearchSpace, Architecture]:
    """The space and architecture behind ``space/name`` or, where a space has a short form, ``space:text``.

    For example ``elastic/M``, ``elastic-mini/largest`` or ``asvit:8,2,3|4,1,2|4,1,4|4,1,6|32``. The space may name
    networks of a larger one, so the space that is returned can be another one.

    Raises:
        UnknownNameError: There is no such space, or no architecture of that name in it.
        ArchitectureError: The text names no network.
    """
    space_name, separator, name = re.match(r"([^/:]*)([/:]?)(.*)", reference, re.DOTALL).groups()  # type: ignore[union-attr]
    space = get_space(space_name, classes)
    architecture = space.from_text(name) if separator == ":" else space.find(name)
    return get_space(architecture.space, classes), architecture


def _all_factories() -> dict[str, SpaceFactory]:
    plugins = {point.name: point for point in entry_points(group="nas.search_spaces") if point.name not in _factories}
    return {**{name: point.load() for name, point in plugins.items()}, **_factories}
