"""Files that are whole or not there, and the folder of what can be made again: what all four packages need."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAMAGED_ARCHIVE = (OSError, ValueError, KeyError, EOFError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)
"""What NumPy and zipfile raise over an archive that is damaged, encrypted or none."""
SET_ASIDE = ".old"
"""Ending of a folder that another one takes the place of."""


def cache_dir() -> Path:
    """Where this machine keeps what can be made again: ``$NAS_CACHE_DIR``, else ``nas`` in the user's cache folder."""
    chosen = os.environ.get("NAS_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "nas"


def temporary_name(path: Path, ending: str) -> str:
    """Name of what this process writes before it takes the place of ``path``."""
    return f".{path.name}.{os.getpid()}{ending}"


def remove_left_overs(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in a folder and below; nobody may write there now.

    What was set aside to be replaced goes back to its place where that is empty.
    """
    for path in sorted(folder.rglob(".*")):
        named = re.fullmatch(rf"\.(.+)\.(\d+)(\.tmp|{re.escape(SET_ASIDE)})", path.name)
        if named is None or path.is_symlink() or not path.exists() or _is_running(int(named[2])):
            continue
        original = path.with_name(named[1])
        if named[3] == SET_ASIDE and not original.exists():
            path.rename(original)
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return process != os.getpid()


@contextmanager
def replacing(path: Path, ending: str = ".tmp") -> Iterator[Path]:
    """A path to write to, whose file takes the place of the one at ``path`` in one step when the block ends.

    Where the block raises, the old file is untouched and nothing of the new one stays behind.

    Args:
        ending: Ending of the path to write to, for writers that insist on one.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.with_name(temporary_name(path, ending))
    temporary.unlink(missing_ok=True)  # of a process that was killed and had our number
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a crash may leave the new name with the contents of neither
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
