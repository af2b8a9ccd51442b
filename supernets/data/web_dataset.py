"""Shards of WebDataset: tar files in which the files of one image share a name, as timm's `wds/` reads them.

An image is ``KEY.jpg`` or of another ending, its class ``KEY.cls``, a number, or ``label`` in ``KEY.json``. Nothing is
unpacked: headers are read once, and an image where it lies when it is needed.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.json_file import parse_json
from supernets.data.decoding import decode
from supernets.data.image_data import FRACTIONS, Division, IntArray, LoadOptions, Part, digest_of, divide
from supernets.data.image_index import image_extensions
from supernets.data.stored_images import StoredData, mirrored
from supernets.errors import DataError

PREFIX = "wds/"
CLASS_NAMES = "classnames.txt"
"""A file beside the shards with the name of a class in each line, in the order of the labels."""
MOST_CLASSES = 100_000
MOST_LABEL_BYTES = 2**20
_HELD_OUT: dict[str, Part] = {"val": "search", "test": "test"}


@dataclass(frozen=True)
class Entry:
    """An image in a shard: its key, where its bytes lie, and its class."""

    key: str
    shard: int
    offset: int
    size: int
    label: int


@dataclass(frozen=True)
class Shards:
    """Images of shards. A `supernets.data.image_loader.ImageStore`.

    Attributes:
        files: Paths of the shards.
        places: Shard, offset and bytes of each image, ``[N, 3]``.
        labels: Class index of each image.
    """

    files: tuple[str, ...]
    places: IntArray
    labels: IntArray

    def open(self, index: int) -> Any:
        """As `ImageStore.open`."""
        shard = Path(self.files[int(self.places[index, 0])]).name
        return decode(io.BytesIO(self.content(index)), f"image {index} in {shard}")

    def content(self, index: int) -> bytes:
        """The bytes of an image's file.

        Raises:
            DataError: The shard cannot be read.
        """
        shard, offset, size = self.places[index].tolist()
        try:
            with open(self.files[shard], "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as error:
            raise DataError(f"data: shard `{self.files[shard]}` cannot be read: {error.strerror}") from error


def holds_shards(text: str) -> bool:
    """Whether it is told so by ``wds/`` in front, or there is a folder with shards and no folders in it."""
    if text.startswith(PREFIX):
        return True
    folder = Path(text)
    try:
        return bool(_shards(folder)) and not any(path.is_dir() for path in folder.iterdir())
    except OSError:
        return False


@dataclass(frozen=True)
class ShardFolder:
    """What a folder of shards holds, before any image is decoded.

    Attributes:
        source: The text that names it.
        files: The shards.
        entries: Images with a class.
        left_out: Number of entries without an image or a class.
        class_names: Names of the classes in label order.
    """

    source: str
    files: tuple[Path, ...]
    entries: tuple[Entry, ...]
    left_out: int
    class_names: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The folder."""
        return self.files[0].parent

    @property
    def names(self) -> list[str]:
        """Shard and key of each image."""
        return [f"{self.files[entry.shard].name}/{entry.key}" for entry in self.entries]

    @property
    def labels(self) -> IntArray:
        """Class index of each image."""
        return np.array([entry.label for entry in self.entries], dtype=np.int64)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know, a sentence each."""
        if not self.left_out:
            return ()
        return (f"{self.left_out} entries of shards without an image or a class are left out",)

    def divided(self, seed: int) -> dict[Part, IntArray]:
        """The parts: what shards are named for, and the rest divided.

        Raises:
            DataError: There are too few images to train on.
        """
        names, labels = self.names, self.labels
        shards = [self.files[entry.shard].name.lower() for entry in self.entries]
        kinds = np.array([next((part for part in _HELD_OUT if name.startswith(part)), "") for name in shards])
        held_out: dict[Part, IntArray] = {
            part: found for name, part in _HELD_OUT.items() if len(found := np.flatnonzero(kinds == name))
        }
        if set(held_out) == {"search"}:
            held_out = {"test": held_out["search"]}
        rest = np.flatnonzero(kinds == "")
        missing: dict[Part, float] = {part: share for part, share in FRACTIONS.items() if part not in held_out}
        own = [names[index] for index in rest.tolist()]
        parts = divide(own, labels[rest], self.class_names, seed, missing, self.source)
        return {**{part: rest[found] for part, found in parts.items()}, **held_out}

    def open_store(self) -> Shards:
        """The images, to be read where they lie."""
        places = np.array([(entry.shard, entry.offset, entry.size) for entry in self.entries], dtype=np.int64)
        return Shards(tuple(str(path.resolve()) for path in self.files), places, self.labels)


def load_shards(text: str, options: LoadOptions) -> StoredData:
    """The images of a folder of shards, with or without ``wds/`` in front.

    Shards whose names begin with ``val`` are the search part, ``test`` the test part. A lone ``val`` is the test part,
    as published results use it; a part that is missing is taken from the rest.

    Raises:
        DataError: There is no shard, one cannot be read, or there are too few images to train on.
    """
    found = read_shards(text)
    names, sizes, parts = found.names, [entry.size for entry in found.entries], found.divided(options.seed)
    digest = digest_of(parts, names, found.labels.tolist())
    division = Division(parts, digest, contents=digest_of(parts, names, sizes))
    options, remarks = mirrored(options, found.folder.resolve().name, found.class_names)
    return StoredData(text, found.class_names, division, found.open_store(), options, (*remarks, *found.remarks))


def read_shards(text: str) -> ShardFolder:
    """What the headers of a folder of shards say, with or without ``wds/`` in front.

    Raises:
        DataError: There is no shard, one cannot be read, or none holds an image with a class.
    """
    folder = Path(text.removeprefix(PREFIX))
    files = _shards(folder)
    if not files:
        raise DataError(
            f"data `{text}`: found no `.tar` file in `{folder}`", hint="name the folder that holds the shards"
        )
    entries, left_out = [], 0
    for shard, path in enumerate(files):
        for entry in _entries(path, shard):
            if entry.label < 0 or entry.size == 0:
                left_out += 1
            else:
                entries.append(entry)
    if not entries:
        raise DataError(
            f"data `{text}`: found no image with a class in {len(files)} shards",
            hint="an image is KEY.jpg, its class KEY.cls or `label` in KEY.json",
        )
    class_names = _class_names(folder, max(entry.label for entry in entries) + 1)
    return ShardFolder(text, tuple(files), tuple(entries), left_out, class_names)


def _shards(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.tar") if path.is_file() and not path.name.startswith("."))


def _entries(path: Path, shard: int) -> Iterator[Entry]:
    """The images of a shard, with the label -1 where it has none."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                key, ending = _key(member.name)
                if not member.isreg() or member.sparse is not None:
                    continue
                if f".{ending}" in image_extensions():
                    images.setdefault(key, (member.offset_data, member.size))
                elif ending in ("cls", "json") and member.size <= MOST_LABEL_BYTES:
                    content = archive.extractfile(member)
                    label = _label(b"" if content is None else content.read(), ending)
                    labels[key] = label if ending == "cls" else labels.get(key, label)
        with path.open("rb") as file:  # where a header is damaged or missing, the library takes that for the end
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it is damaged, or ends too early")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"data: shard `{path}` cannot be read as a tar file: {error}",
            hint="shards are tar files that are not compressed; replace the file or take it away",
        ) from error
    for key in {**images, **labels}:
        offset, size = images.get(key, (0, 0))
        yield Entry(key, shard, offset, size, labels.get(key, -1))


def _key(name: str) -> tuple[str, str]:
    """What the files of an image share, up to the first dot of the last part, and the last ending in small letters."""
    folder, _, last = name.rpartition("/")
    key, _, endings = last.partition(".")
    return f"{folder}/{key}", endings.rpartition(".")[2].lower()


def _label(content: bytes, ending: str) -> int:
    """The label in a file; -1 where it is none."""
    try:
        document = parse_json(content.strip())
    except ValueError:
        return -1
    found = document.get("label") if ending == "json" and isinstance(document, dict) else document
    return found if type(found) is int and 0 <= found < MOST_CLASSES else -1


def _class_names(folder: Path, classes: int) -> tuple[str, ...]:
    """A line of the file beside the shards for each class, where it has as many; else the numbers of the labels."""
    path = folder / CLASS_NAMES
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        lines = []
    is_one_each = len(lines) >= classes and len(set(lines)) == len(lines)
    return tuple(lines[:classes]) if is_one_each else tuple(map(str, range(classes)))
