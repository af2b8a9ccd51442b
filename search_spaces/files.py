"""Files that are whole or not there, and the folder of what can be made again: what all four packages need."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_dir() -> Path:
    """Where this machine keeps what can be made again: ``$NAS_CACHE_DIR``, else ``nas`` in the user's cache folder."""
    chosen = os.environ.get("NAS_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nas"


@contextmanager
def replacing(path: Path, ending: str = ".tmp") -> Iterator[Path]:
    """A path to write to, whose file takes the place of the one at ``path`` in one step when the block ends.

    Where the block raises, the old file is untouched and nothing of the new one stays behind.

    Args:
        ending: Ending of the path to write to, for writers that insist on one.

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
