"""Images in folders, a sub-folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernets.data.image_data import (
    FEWEST_PER_CLASS,
    FRACTIONS,
    Division,
    IntArray,
    LoadOptions,
    Part,
    check_classes,
    digest_of,
    divide,
)
from supernets.data.image_index import Names, index_images
from supernets.data.stored_images import StoredData
from supernets.errors import DataError

HEADER_CHECKS = 20_000
"""Up to this many files are opened when a folder is loaded, so that a damaged one is found before training."""
_HELD_OUT = {"val": "search", "validation": "search", "test": "test"}


@dataclass(frozen=True)
class FileStore:
    """Image files under a folder."""

    root: Path
    names: Names
    labels: IntArray

    def open(self, index: int) -> Any:
        """The image of the file with this index."""
        path = self.root / self.names[index]
        return decode(path, str(path))


@dataclass(frozen=True)
class _Found:
    """The images of a folder: their names, classes and sizes, and the parts that they are in."""

    class_names: tuple[str, ...]
    names: Names
    labels: IntArray
    sizes: IntArray
    parts: dict[Part, IntArray]


class FolderSource:
    """Images of a folder: a sub-folder per class, or such folders under ``train``, ``val`` and ``test``.

    Where there is no ``val``, or no ``test``, the missing one of `search` and `test` is taken from ``train``, except
    that a lone ``val`` is the test part, as published results use it. A `supernets.data.image_data.DataSource`.
    """

    expected = "a folder of images"

    def understands(self, text: str) -> bool:
        """Whether there is a file or folder of this path; `load` refuses a file."""
        return Path(text).exists()

    def load(self, text: str, options: LoadOptions) -> StoredData:
        """The images of the folder.

        Raises:
            DataError: The folder holds nothing to train on, or a file that cannot be read.
        """
        root = Path(text)
        if not root.is_dir():
            raise DataError(f"data `{text}`: found a file, expected a folder with a sub-folder of images per class")
        given = [name for name in ("train", *_HELD_OUT) if (root / name).is_dir()]
        found = _find_parts(root, given, text, options.seed) if "train" in given else _find(root, text, options.seed)
        store = FileStore(root, found.names, found.labels)
        _check_headers(store)
        division = Division(found.parts, digest_of(found.parts, list(found.names), found.sizes.tolist()))
        return StoredData(text, found.class_names, division, store, options)


def decode(file: Any, name: str) -> Any:
    """The PIL image in RGB of a file or path; ``name`` is for messages.

    Raises:
        DataError: It cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except Exception as error:  # Pillow raises a kind of its own for almost every format
        raise _unreadable(name, error) from error


def _find(root: Path, source: str, seed: int) -> _Found:
    index = index_images(root)
    parts = divide(list(index.names), index.labels, index.classes, seed, FRACTIONS, source)
    return _Found(index.classes, index.names, index.labels, index.sizes, parts)


def _find_parts(root: Path, given: Sequence[str], source: str, seed: int) -> _Found:
    """Images of a folder that is divided already, wholly or in part."""
    index = index_images(root / "train")
    trained, labels = len(index.names), [index.labels]
    names, sizes = [index.names.under("train")], [index.sizes]
    held_out: dict[Part, IntArray] = {}
    count = trained
    for folder in given[1:]:
        part: Part = "search" if _HELD_OUT[folder] == "search" and "test" in given else "test"
        more = index_images(root / folder)
        unknown = sorted(set(more.classes) - set(index.classes))
        if unknown:
            raise DataError(f"data `{root / folder}`: class `{unknown[0]}` is not among those of `{root / 'train'}`")
        label_of = {name: label for label, name in enumerate(index.classes)}
        labels.append(np.array([label_of[name] for name in more.classes], dtype=np.int64)[more.labels])
        names.append(more.names.under(folder))
        sizes.append(more.sizes)
        held_out[part] = np.arange(count, count + len(more.names), dtype=np.int64)
        count += len(more.names)
    taken = {part: fraction for part, fraction in FRACTIONS.items() if part not in held_out}
    check_classes(index.labels, index.classes, source, FEWEST_PER_CLASS if taken else 1)
    parts = divide(list(names[0]), index.labels, index.classes, seed, taken, source) if taken else {}
    parts.setdefault("train", np.arange(trained, dtype=np.int64))
    return _Found(
        index.classes,
        Names.joined(names),
        np.concatenate(labels),
        np.concatenate(sizes),
        {**parts, **held_out},
    )


def _check_headers(store: FileStore) -> None:
    from PIL import Image

    if len(store.names) > HEADER_CHECKS:
        return
    for name in store.names:
        try:
            with Image.open(store.root / name):
                pass
        except Exception as error:  # as above
            raise _unreadable(str(store.root / name), error) from error


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"image `{name}`: cannot be read: {error}", hint="replace the file or take it away")
