"""Registries: what is chosen by a name, ours, other packages' (entry points), and what a program registers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from search_spaces.errors import NasError, UnknownNameError

Thing = TypeVar("Thing")


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group that the installed packages declare, by name."""
    return {point.name: point for point in entry_points(group=group)}


class Registry(Generic[Thing]):
    """Things of one kind by name. Where other packages use a name of ours, it stays ours.

    Args:
        kind: What one of them is called in messages, for example ``controller``.
        group: Group of the entry points by which other packages bring theirs.
        ours: Our own: the things, or ``module:object`` to import one when it is used.
    """

    def __init__(self, kind: str, group: str, ours: Mapping[str, Thing | str]) -> None:
        self.kind = kind
        self.group = group
        self._ours = ours
        self._registered: dict[str, Thing] = {}
        self._loaded: dict[EntryPoint, Thing] = {}

    def register(self, name: str, thing: Thing) -> None:
        """Register a thing under ``name``, for this process.

        Raises:
            ValueError: The name is taken.
        """
        if name in self.names():
            raise ValueError(f"{self.kind} `{name}` is registered already")
        self._registered[name] = thing

    def names(self) -> list[str]:
        """All names: ours, other packages', those of this process."""
        return list({**self._ours, **installed(self.group), **self._registered})

    def find(self, name: str) -> Thing | None:
        """The thing called ``name``; None where there is none.

        Raises:
            NasError: The package that brings it cannot be imported.
        """
        if name in self._registered:
            return self._registered[name]
        ours = self._ours.get(name)
        if ours is not None and not isinstance(ours, str):
            return ours
        point = EntryPoint(name, ours, self.group) if ours else installed(self.group).get(name)
        return None if point is None else self._load(point)

    def get(self, name: str) -> Thing:
        """The thing called ``name``.

        Raises:
            UnknownNameError: There is none.
            NasError: The package that brings it cannot be imported.
        """
        found = self.find(name)
        if found is None:
            raise UnknownNameError(self.kind, name, self.names())
        return found

    def values(self) -> Iterator[Thing]:
        """All things, in the order of `names`, each imported when its turn comes."""
        yield from map(self.get, self.names())

    def _load(self, point: EntryPoint) -> Thing:
        if point not in self._loaded:
            try:
                self._loaded[point] = point.load()
            except (ImportError, AttributeError) as error:
                if point.name in self._ours:
                    raise
                package = point.dist.name if point.dist else point.module
                raise NasError(
                    f"{self.kind} `{point.name}` of package `{package}`: `{point.value}` cannot be imported: {error}",
                    f"repair the package or remove it: `pip uninstall {package}`",
                ) from error
        return self._loaded[point]
