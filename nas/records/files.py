"""Writing files so that no reader, and no crash, ever sees half of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.errors import NasError, RunError
from search_spaces.files import SET_ASIDE, replacing, temporary_name
from search_spaces.json_file import parse_json

_GO_ON = "free some space or choose another folder, then go on with `--resume`; finished trials are kept"


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in one step.

    Raises:
        NasError: The file cannot be written, for example because the disk is full; the old one is untouched.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise write_failed(path, error) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace ``path`` by a JSON document in one step.

    Raises:
        NasError: As `write_text`.
        ValueError: The document holds a number that JSON has no word for (NaN, infinity).
    """
    write_text(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        RunError: The file is missing, unreadable or holds something else.
    """
    try:
        document = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(
            f"`{path}` cannot be read: {error}",
            hint="restore the file from a copy, or run anew with `--force`",
        ) from error
    if not isinstance(document, dict):
        raise RunError(f"`{path}` holds {type(document).__name__}, expected a JSON object")
    return document


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(each.stat().st_size for each in (path, *path.rglob("*")) if each.is_file())


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``folder`` where the block ends well; at every moment one is whole.

    Raises:
        NasError: The folder cannot be written; the old one is untouched, and nothing of the attempt is left.
    """
    draft = folder.with_name(temporary_name(folder, ".tmp"))
    try:
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed and had our number
        draft.mkdir(parents=True)
        yield draft
        _replace(draft, folder)
    except OSError as error:
        raise write_failed(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _replace(draft: Path, folder: Path) -> None:
    draft.chmod(0o755)
    if not folder.exists():
        os.rename(draft, folder)
        return
    old = folder.with_name(temporary_name(folder, SET_ASIDE))
    os.rename(folder, old)
    os.rename(draft, folder)
    shutil.rmtree(old, ignore_errors=True)


def write_failed(path: Path, error: OSError, hint: str = _GO_ON) -> NasError:
    """The error to raise where writing ``path`` failed."""
    return NasError(f"`{path}` cannot be written: {error.strerror or error}", hint=hint)
