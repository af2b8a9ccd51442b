"""Images beside each other, and a file beside or among them that says the class of each.

So are ImageNet's validation images handed out. A line holds the name of a file, with or without its ending and folders,
and then its class: a WordNet number, a name, or a place. Columns are parted by commas, semicolons or tabs, else by the
first space; what follows a WordNet number in its column, such as a box, is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from supernets.data.image_data import IntArray
from supernets.data.image_index import Names, image_extensions, is_nobodys
from supernets.errors import DataError

ENDINGS = (".txt", ".csv", ".tsv")
LARGEST_BYTES = 64 * 2**20
MOST_UNKNOWN = 5
_COLUMNS, _SPACES = re.compile(r"[,;\t]"), re.compile(r"\s+")
_NUMBER = re.compile(r"n\d{8}(?!\d)")


def find_map(top: Path) -> tuple[Path, Mapping[str, str]] | None:
    """The map of the images in a folder, and the class of each by the name of its file; None where there is none.

    Raises:
        DataError: Several files could be it.
    """
    images = _images(top)
    if not images:
        return None
    by_stem = {os.path.splitext(name)[0]: name for name in images}
    found = []
    for folder in (top, top.absolute().parent):
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in ENDINGS and path.is_file() and path.stat().st_size <= LARGEST_BYTES:
                classes = _read(path, by_stem)
                if classes:
                    found.append((path, classes))
    if len(found) > 1:
        listed = " and ".join(f"`{path}`" for path, _ in found)
        raise DataError(
            f"data `{top}`: found several maps of its images: {listed}, expected one",
            hint="leave the one that says the classes",
        )
    if not found:
        return None
    path, classes = found[0]
    missing = sorted(images - classes.keys())
    if missing:
        shown = ", ".join(f"`{name}`" for name in missing[:MOST_UNKNOWN])
        raise DataError(
            f"data `{top}`: `{path.name}` says no class of {len(missing)} images: {shown}",
            hint="add a line for each, with its file and class, or take the images away",
        )
    return path, classes


def mapped(top: Path, classes: Mapping[str, str]) -> tuple[tuple[str, ...], Names, IntArray, IntArray]:
    """Names of the classes, names of the files, and class index and size of each.

    Args:
        top: The folder.
        classes: Class of each file.
    """
    names = sorted(classes)
    class_names = tuple(sorted(set(classes.values())))
    places = {name: place for place, name in enumerate(class_names)}
    labels = np.array([places[classes[name]] for name in names], dtype=np.int64)
    sizes = np.array([(top / name).stat().st_size for name in names], dtype=np.int64)
    return class_names, Names.of(names), labels, sizes


def _images(top: Path) -> set[str]:
    endings = image_extensions()
    with os.scandir(top) as entries:
        return {
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in endings and not is_nobodys(entry.name) and entry.is_file()
        }


def _read(path: Path, by_stem: Mapping[str, str]) -> dict[str, str]:
    """The class of each image that the lines of a file name; nothing where it is no map."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    classes: dict[str, str] = {}
    for line in lines:
        columns = _COLUMNS.split(line) if _COLUMNS.search(line) else _SPACES.split(line.strip(), maxsplit=1)
        first, label = (text.strip(" \"'") for text in (*columns, "")[:2])
        stem = os.path.basename(first)
        name = by_stem.get(stem) or by_stem.get(os.path.splitext(stem)[0])
        if name is not None and label:
            number = _NUMBER.match(label)
            classes[name] = number[0] if number else label
    return classes
