"""Networks whose files are still being written while others are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Writing(Protocol):
    """Whoever writes the networks' files."""

    def is_written(self, path: Path) -> bool:
        """Whether a file is there as a whole.

        Raises:
            ProfileError: A network cannot be written.
        """

    def wait(self, path: Path) -> None:
        """Return when a file is there as a whole.

        Raises:
            ProfileError: A network cannot be written.
        """


class AllWritten:
    """Nothing is left to be written."""

    def is_written(self, path: Path) -> bool:
        """As `Writing.is_written`."""
        return True

    def wait(self, path: Path) -> None:
        """As `Writing.wait`."""


ALL_WRITTEN = AllWritten()
