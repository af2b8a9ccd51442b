"""Files that are whole or not there. It stands in the lowest package, since all four write files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, ending: str = ".tmp") -> Iterator[Path]:
    """A path to write to, whose file takes the place of the one at ``path`` in one step when the block ends.

    Where the block raises, the old file is untouched and nothing of the new one stays behind.

    Args:
        ending: Of the path to write to, for writers that insist on one.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{ending}")
    temporary.unlink(missing_ok=True)  # of a process that was killed and had our number
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a crash may leave the new name with the contents of neither
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
