"""Search spaces by name: ours, and those that other packages register as entry points `nas.search_spaces`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from search_spaces.architecture import Architecture
from search_spaces.elastic import ELASTIC, ELASTIC_MINI, ElasticSpace
from search_spaces.errors import UnknownNameError
from search_spaces.space import SearchSpace

SpaceFactory = Callable[[int | None], SearchSpace]
"""Makes a space for a number of classes; None takes the space's own."""

_factories: dict[str, SpaceFactory] = {
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
    """The space and architecture behind ``space/name``, for example ``elastic/M`` or ``elastic-mini/largest``.

    Raises:
        UnknownNameError: There is no such space, or no architecture of that name in it.
    """
    space_name, _, name = reference.partition("/")
    space = get_space(space_name, classes)
    return space, space.find(name)


def _all_factories() -> dict[str, SpaceFactory]:
    plugins = {point.name: point for point in entry_points(group="nas.search_spaces") if point.name not in _factories}
    return {**{name: point.load() for name, point in plugins.items()}, **_factories}
