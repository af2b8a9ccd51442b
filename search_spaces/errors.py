"""The root of all errors that somebody foresaw, and what can go wrong with spaces and architectures.

Every message names subject, found and expected; `hint` holds the remedy. The root stands in the lowest package, since
the errors of all four derive from it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NasError(Exception):
    """An error that somebody foresaw: the command line shows its message and hint, never a traceback.

    Attributes:
        message: What went wrong.
        hint: What the reader can do about it; empty where there is nothing to say.
        exit_code: What the command line ends with: 1 failed, 2 wrong usage, 3 nothing satisfies the constraint, 4 a
            file that cannot be read or does not fit, 5 a package that is not installed.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class SearchSpaceError(NasError, ValueError):
    """Base of the errors of this package."""

    exit_code = 2


class UnknownNameError(SearchSpaceError):
    """A name that nothing is registered under; the hint is the closest registered name, or where all are listed.

    Args:
        what: What the name is of.
        name: The name.
        known: Registered names.
        where: Says what is known, where the names are too many for a line; all of them where it is empty.
    """

    def __init__(self, what: str, name: str, known: Iterable[str], where: str = "") -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else where or f"known: {', '.join(names)}"
        super().__init__(f"unknown {what}: `{name}`", hint)


class ArchitectureError(SearchSpaceError):
    """An architecture that does not belong to its space or cannot be read."""
