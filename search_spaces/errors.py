"""What can go wrong with spaces and architectures. Every message names subject, found, expected and remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SearchSpaceError(ValueError):
    """Base of the errors of this package."""


class UnknownNameError(SearchSpaceError):
    """A name that nothing is registered under.

    Attributes:
        hint: The closest registered name, as a remedy, or the list of all.
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        self.hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(names)}"
        super().__init__(f"unknown {what}: `{name}`")


class ArchitectureError(SearchSpaceError):
    """An architecture that does not belong to its space or cannot be read."""
