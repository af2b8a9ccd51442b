"""How a folder of images is laid out: which of its folders are parts, in whatever spelling, and which are classes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from supernets.data.image_index import image_extensions, is_nobodys
from supernets.errors import DataError

Split = Literal["train", "val", "test"]
SPELLINGS: Mapping[Split, frozenset[str]] = {
    "train": frozenset({"train", "training", "trainval", "trn"}),
    "val": frozenset({"val", "valid", "validation", "validate", "dev", "development", "eval", "evaluation"}),
    "test": frozenset({"test", "testing", "tst"}),
}
"""What folders of parts are called, in small letters; ``set``, ``data``, ``images``, numbers and marks are left out."""
_ADDED = re.compile(r"(sets?|data|images?|imgs?|pictures|split|part|folder)$")
_AROUND = re.compile(r"images?|imgs?|pictures|photos|data|datasets?")


@dataclass(frozen=True)
class Layout:
    """How a folder of images is laid out.

    Attributes:
        root: The folder with the parts or classes.
        splits: Names of the folders of each part, where they are parts; none where they are classes.
        remarks: What of it should be said.
    """

    root: Path
    splits: Mapping[Split, tuple[str, ...]]
    remarks: tuple[str, ...] = ()


def split_of(name: str) -> Split | None:
    """The part that a folder of this name holds, in any spelling; None where it is no such name."""
    text = re.sub(r"[\W\d_]+", "", name.lower())
    while _ADDED.search(text) and _ADDED.sub("", text):
        text = _ADDED.sub("", text)
    return next((split for split, spellings in SPELLINGS.items() if text in spellings), None)


def split_of_path(name: str) -> Split | None:
    """The part that a folder in the path of a file is called like; None where none is."""
    return next((split for folder in name.split("/")[:-1] if (split := split_of(folder))), None)


def find_layout(top: Path) -> Layout:
    """Look at the folders of ``top``, and of the one folder that it may consist of.

    A folder counts as a part where it is called like one and holds folders of images, not images.

    Raises:
        DataError: There are folders called like parts, and none to train on, or they cannot be read.
    """
    try:
        return _layout(top, ())
    except OSError as error:
        raise DataError(f"data `{error.filename or top}`: cannot be listed: {error.strerror or error}") from error


def _layout(root: Path, remarks: tuple[str, ...]) -> Layout:
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not is_nobodys(entry.name))
    called: dict[Split, list[str]] = {}
    parts: list[str] = []
    for name in folders:
        split = split_of(name)
        if split is not None and _holds_classes(root / name) and not _is_among(root, name, parts):
            called.setdefault(split, []).append(name)
            parts.append(name)
    if "train" not in called:
        around = [name for name in folders if len(folders) == 1 or _AROUND.fullmatch(name.lower())]
        if len(around) == 1 and _holds_classes(root / around[0]) and not any(map(_is_image, os.scandir(root))):
            others = [name for name in folders if name not in around and _holds_images(root / name)]
            if not others:
                return _layout(root / around[0], (*remarks, f"the images are taken from its folder `{around[0]}`"))
        return Layout(root, {}, (*remarks, *_undivided(root, folders, bool(called))))
    for name in folders:
        count = 0 if _is_among(root, name, parts) else sum(1 for _ in _images(root / name))
        if count:
            why = "holds images without class folders" if split_of(name) else "is called like no part"
            remarks += (f"folder `{name}` {why}: its {count} images are left out",)
    for names in called.values():
        if len(names) > 1:
            remarks += (f"the folders {_listed(names)} are taken together as one part",)
    return Layout(root, {split: tuple(called[split]) for split in SPELLINGS if split in called}, remarks)


def _is_among(root: Path, name: str, others: Sequence[str]) -> bool:
    """Whether a folder is one of these, or a link to one."""
    return any((root / name).samefile(root / other) for other in others)


def _undivided(root: Path, folders: Sequence[str], are_parts: bool) -> tuple[str, ...]:
    """What to say of folders that are called like parts, and are taken for classes.

    Raises:
        DataError: No class is called otherwise.
    """
    named = [name for name in folders if split_of(name) and _holds_images(root / name)]
    if not named:
        return ()
    if not any(_holds_images(root / name) for name in folders if name not in named):
        what = "one to train on, called `train`" if are_parts else "a folder of images per class in each"
        raise DataError(
            f"data `{root}`: found {_listed(named)}, which are called like parts, expected {what}",
            hint="rename the folders where they are classes",
        )
    return tuple(f"folder `{name}` is taken for a class: no `train` with class folders is beside it" for name in named)


def _holds_classes(folder: Path) -> bool:
    """Whether there are images in folders of it; in two or more of them, where there are images beside those."""
    with os.scandir(folder) as entries:
        found = list(entries)
    classes = (entry for entry in found if entry.is_dir() and not is_nobodys(entry.name) and _holds_images(entry.path))
    expected = 2 if any(map(_is_image, found)) else 1
    return len(list(islice(classes, expected))) == expected


def _holds_images(folder: str | Path) -> bool:
    return next(_images(folder), None) is not None


def _images(folder: str | Path) -> Iterator[os.DirEntry[str]]:
    """The image files anywhere in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) and not is_nobodys(entry.name):
                yield from _images(entry.path)
            elif _is_image(entry):
                yield entry


def _is_image(entry: os.DirEntry[str]) -> bool:
    ending = os.path.splitext(entry.name)[1].lower()
    return ending in image_extensions() and not is_nobodys(entry.name) and entry.is_file()


def _listed(names: Sequence[str]) -> str:
    *others, last = [f"`{name}`" for name in names]
    return f"{', '.join(others)} and {last}" if others else last
