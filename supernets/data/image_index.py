"""Which image files a folder holds: found quickly, kept in little memory, and remembered for large folders."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from search_spaces.files import DAMAGED_ARCHIVE, cache_dir
from search_spaces.json_file import parse_json
from supernets.checkpoint import write_atomically
from supernets.data.image_data import IntArray
from supernets.errors import DataError

REMEMBERED_FROM = 20_000
"""Folders with as many images as this are remembered."""
SPOT_CHECKS = 1_000
"""Files of a remembered folder whose sizes are looked at again."""
SCAN_THREADS = 8
"""Folders that are listed at a time; on a network's disk most of the time is waiting."""
SETTLED_SECONDS = 3.0
"""A folder that changed later than this before it was listed may change again without its time telling."""
_VERSION = 2
_NOBODYS = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini")
)
"""What systems leave in folders, in small letters; it is passed over, as are names that begin with a dot."""
_LINKS = "broken links and links in circles"
_FURTHER_ENDINGS = (
    ".webp", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif", ".apng", ".jfif", ".jpe", ".jp2",
    ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip

ByteArray = npt.NDArray[np.uint8]


class Names(Sequence[str]):
    """File names as one block of bytes.

    A million strings would be copied into every worker process, since looking at an object writes to its count of
    references; an array is shared.

    Args:
        block: The names, in the encoding of the file system, one after another.
        ends: Where each ends.
    """

    def __init__(self, block: ByteArray, ends: IntArray) -> None:
        self.block = block
        self.ends = ends

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """These names."""
        encoded = [os.fsencode(name) for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), ends)

    @classmethod
    def joined(cls, parts: Sequence[Names]) -> Names:
        """The names of all parts, one after another."""
        offsets = np.cumsum([0, *(len(part.block) for part in parts)])
        ends = [part.ends + offset for part, offset in zip(parts, offsets, strict=False)]
        return cls(np.concatenate([part.block for part in parts]), np.concatenate(ends))

    def under(self, folder: str) -> Names:
        """The names with ``folder/`` before each."""
        return Names.of(f"{folder}/{name}" for name in self)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        first = int(self.ends[position - 1]) if position else 0
        return os.fsdecode(self.block[first : int(self.ends[position])].tobytes())

    def __iter__(self) -> Iterator[str]:
        contents, first = self.block.tobytes(), 0
        for end in self.ends.tolist():
            yield os.fsdecode(contents[first:end])
            first = end


@dataclass(frozen=True)
class ImageIndex:
    """The image files of a folder with a sub-folder per class.

    Attributes:
        classes: Names of the sub-folders that hold images, sorted.
        counts: Images of each.
        names: Names of the files, relative to the folder, class by class, sorted.
        sizes: Sizes of the files, in bytes.
        others: What else lies there, by the ending of its name, and how often.
    """

    classes: tuple[str, ...]
    counts: tuple[int, ...]
    names: Names
    sizes: IntArray
    others: Mapping[str, int]

    @cached_property
    def labels(self) -> IntArray:
        """The class index of each file."""
        return np.repeat(np.arange(len(self.classes), dtype=np.int64), self.counts)


@dataclass(frozen=True)
class _Listing:
    """One class: its image files, the folders that were listed with their times, and what else lay there."""

    names: Names
    sizes: IntArray
    folders: tuple[tuple[str, int], ...]
    others: tuple[str, ...]


def is_nobodys(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or left by a system, and no part of the images."""
    return name.startswith(".") or name.lower() in _NOBODYS


@cache
def image_extensions() -> frozenset[str]:
    """The endings of image files, in small letters."""
    from timm.data.readers.img_extensions import IMG_EXTENSIONS

    return frozenset({*IMG_EXTENSIONS, *_FURTHER_ENDINGS})


def index_images(top: Path) -> ImageIndex:
    """Find the image files under ``top``.

    A large folder is listed once and remembered in the cache folder. It is listed again when the time of any folder in
    it changed, as it does when a file is added, renamed or taken away, or when one of some files that are looked at has
    another size. A few files of a large folder that are overwritten in place are therefore not noticed; in smaller
    folders every size is read every time.

    Raises:
        DataError: There is no image, or no sub-folder; the message says what was found.
    """
    path = cache_dir() / "images" / f"{hashlib.sha256(os.fsencode(top.resolve())).hexdigest()[:24]}.npz"
    return _remembered(path, top) or _listed(path, top)


def _listed(path: Path, top: Path) -> ImageIndex:
    began = time.time()
    extensions = image_extensions()
    try:
        entries = [entry for entry in os.scandir(top) if not is_nobodys(entry.name)]
        folders = sorted(entry.name for entry in entries if entry.is_dir())
        with ThreadPoolExecutor(SCAN_THREADS) as pool:
            found = list(pool.map(lambda name: _list_class(top, name, extensions), folders))
    except OSError as error:
        raise DataError(f"data `{error.filename or top}`: cannot be listed: {error.strerror or error}") from error
    if not any(len(listing.names) for listing in found):
        raise _nothing_found(top, found, extensions)
    index = ImageIndex(
        tuple(folders),
        tuple(len(listing.names) for listing in found),
        Names.joined([listing.names for listing in found]),
        np.concatenate([listing.sizes for listing in found]),
        Counter(
            [_ending(name) for listing in found for name in listing.others]
            + [f"{_ending(entry.name)} beside the folders" for entry in entries if not entry.is_dir()]
        ),
    )
    listed = [("", top.stat().st_mtime_ns), *(folder for listing in found for folder in listing.folders)]
    is_settled = max(changed for _, changed in listed) < (began - SETTLED_SECONDS) * 1e9
    if len(index.names) >= REMEMBERED_FROM and is_settled:
        _remember(path, index, listed)
    return index


def _list_class(top: Path, name: str, extensions: frozenset[str]) -> _Listing:
    images: list[tuple[str, int]] = []
    folders: list[tuple[str, int]] = []
    others: list[str] = []
    pending = [name]
    while pending:
        folder = pending.pop()
        folders.append((folder, os.stat(top / folder).st_mtime_ns))
        with os.scandir(top / folder) as entries:
            for entry in entries:
                if is_nobodys(entry.name):
                    continue
                if os.path.splitext(entry.name)[1].lower() in extensions and entry.is_file():
                    images.append((f"{folder}/{entry.name}", entry.stat().st_size))
                elif entry.is_dir() and not (entry.is_symlink() and _leads_back(Path(entry.path), top)):
                    pending.append(f"{folder}/{entry.name}")
                else:
                    others.append(entry.name if entry.is_file() else _LINKS)
    # As sorted paths: part by part, so that a folder's own files stay together.
    images.sort(key=lambda image: image[0].split("/"))
    names, sizes = Names.of(image for image, _ in images), [size for _, size in images]
    return _Listing(names, np.array(sizes, dtype=np.int64), tuple(folders), tuple(others))


def _leads_back(link: Path, top: Path) -> bool:
    """Whether a link leads to a folder that is listed anyway, or to one that holds the link."""
    target, top = link.resolve(), top.resolve()
    return target.is_relative_to(top) or link.parent.resolve().is_relative_to(target)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or (name if name == _LINKS else "without an ending")


def _nothing_found(top: Path, found: Sequence[_Listing], extensions: frozenset[str]) -> DataError:
    expected = "expected a sub-folder of images per class"
    loose = [entry.name for entry in os.scandir(top) if entry.is_file()]
    others = [name for listing in found for name in listing.others] or loose
    if not others:
        return DataError(f"data `{top}`: the folder is empty, {expected}")
    if any(os.path.splitext(name)[1].lower() in extensions for name in loose):
        return DataError(f"data `{top}`: found images beside each other, {expected}")
    kinds = ", ".join(sorted({os.path.splitext(name)[1] or name for name in others})[:5])
    return DataError(
        f"data `{top}`: found no readable image among {len(others)} files ({kinds}), {expected}",
        hint=f"image files end in one of: {' '.join(sorted(extensions))}",
    )


def _remember(path: Path, index: ImageIndex, listed: Sequence[tuple[str, int]]) -> None:
    classes, folders = Names.of(index.classes), Names.of(folder for folder, _ in listed)
    arrays: dict[str, Any] = {
        "version": np.array([_VERSION]),
        "names": index.names.block,
        "name_ends": index.names.ends,
        "sizes": index.sizes,
        "classes": classes.block,
        "class_ends": classes.ends,
        "counts": np.array(index.counts, dtype=np.int64),
        "others": np.frombuffer(json.dumps(index.others).encode(), dtype=np.uint8),
        "folders": folders.block,
        "folder_ends": folders.ends,
        "changed": np.array([changed for _, changed in listed], dtype=np.int64),
    }
    contents = io.BytesIO()
    np.savez(contents, **arrays)
    try:
        write_atomically(path, contents.getvalue())
    except OSError:
        pass  # the folder is listed again next time


def _remembered(path: Path, top: Path) -> ImageIndex | None:
    """What was remembered of the folder, if it is there, whole, and still true."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if arrays["version"].tolist() != [_VERSION]:
                return None
            folders, changed = _names(arrays, "folders", "folder_ends"), _numbers(arrays, "changed")
            index = ImageIndex(
                tuple(_names(arrays, "classes", "class_ends")),
                tuple(_numbers(arrays, "counts").tolist()),
                _names(arrays, "names", "name_ends"),
                _numbers(arrays, "sizes"),
                _others(arrays["others"]),
            )
            if (
                len(index.classes) != len(index.counts)
                or sum(index.counts) != len(index.names)
                or not len(index.names) == len(index.sizes) > 0
            ):
                return None
        with ThreadPoolExecutor(SCAN_THREADS) as pool:
            times = pool.map(lambda folder: os.stat(top / folder).st_mtime_ns, folders)
            if list(times) != changed.tolist():
                return None
            spots = np.unique(np.linspace(0, len(index.names) - 1, SPOT_CHECKS).astype(np.int64)).tolist()
            sizes = pool.map(lambda spot: os.stat(top / index.names[spot]).st_size, spots)
            return index if list(sizes) == index.sizes[spots].tolist() else None
    except DAMAGED_ARCHIVE:
        return None


def _numbers(arrays: Mapping[str, Any], name: str) -> IntArray:
    """An array of counts or places; what another program wrote is a `ValueError`."""
    found: IntArray = arrays[name]
    if found.dtype != np.int64 or found.ndim != 1 or (found < 0).any():
        raise ValueError(f"`{name}` holds no counts")
    return found


def _others(array: npt.NDArray[Any]) -> dict[str, int]:
    found = parse_json(array.tobytes())
    if not isinstance(found, dict) or not all(type(count) is int for count in found.values()):
        raise ValueError("`others` holds no counts")
    return found


def _names(arrays: Mapping[str, Any], name: str, ends_name: str) -> Names:
    block, ends = arrays[name], _numbers(arrays, ends_name)
    if block.dtype != np.uint8 or block.ndim != 1 or (np.diff(ends) < 0).any() or (ends[-1:] > len(block)).any():
        raise ValueError(f"`{name}` holds no names")
    return Names(block, ends)
