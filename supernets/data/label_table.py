"""A table beside images that says which labels each has, of which an image may have several, or none.

A CSV file with a column of file names and either a column of 0 and 1 for each class, or one column of labels with ``|``
between them (as ChestX-ray14's ``Data_Entry_2017.csv``), or JSON lines with a list ``labels``. A column of parts is
followed, and images of one group (patients, scenes) stay together where a column says the groups.

Legend of array suffixes: N images, K classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from search_spaces.csv_table import SEPARATORS, Column, CsvTable
from search_spaces.json_file import parse_json
from supernets.data.folder_layout import Split, split_of, split_of_path
from supernets.data.image_data import FEWEST_PER_CLASS, IntArray, Part
from supernets.data.image_index import image_extensions, is_nobodys
from supernets.data.label_division import divide_labels, some
from supernets.errors import DataError

ENDINGS, LINES = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson")
LARGEST_BYTES, LONGEST_HEADER = 64 * 2**20, 2**20
BETWEEN = "|"
FILES = (
    "file", "file_name", "filename", "image", "image_index", "image_name", "image_id", "image_path", "path", "img",
    "id",
)  # fmt: skip
LABELS = ("labels", "label", "finding_labels", "findings", "tags", "classes", "categories", "attributes", "targets")
ONE_LABEL = ("label",)
"""A column of that name says one class, whose name may have commas."""
SPLITS = ("split", "part", "subset", "partition")
GROUPS = ("patient_id", "patient", "patientid", "subject_id", "subject", "group_id", "scene_id")
NOTHING = frozenset({"", "no finding", "no findings", "none"})
"""Texts among labels, in small letters, that say that an image has none."""
_HINT = "a column of file names, and either a column of 0 and 1 per class or a column of labels with `|` between them"
_NAMED = 5


@dataclass(frozen=True)
class LabelTable:
    """The labels of images.

    Attributes:
        path: The file.
        class_names: Names of the classes.
        names: Names of the images, relative to their folder, sorted.
        labels_NK: Whether an image has a label, 0 or 1.
        units: What each image is divided by: its own name, or that of its group.
        splits: The part that each image is said to be in; None where nothing says.
        remarks: What should be said of them.
    """

    path: Path
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    labels_NK: IntArray
    units: tuple[str, ...]
    splits: tuple[Split | None, ...]
    remarks: tuple[str, ...]

    @property
    def labels(self) -> IntArray:
        """``(N, K)``, or the class ``(N,)`` of each image where all have one label exactly."""
        return self.labels_NK.argmax(axis=1) if (self.labels_NK.sum(axis=1) == 1).all() else self.labels_NK

    def divided(self, seed: int, source: str) -> dict[Part, IntArray]:
        """The images of each part, see `divide_labels`.

        Raises:
            DataError: A class has too few images, or none in a part.
        """
        for name, count in zip(self.class_names, self.labels_NK.sum(axis=0).tolist(), strict=True):
            if min(count, len(self.names) - count) < FEWEST_PER_CLASS:
                raise DataError(
                    f"data `{source}`: class `{name}` is a label of {count} of {len(self.names)} images, expected"
                    f" {FEWEST_PER_CLASS} or more with it and as many without",
                    hint="add images, or take the class out of the table",
                )
        return divide_labels(self.units, self.splits, self.labels_NK, self.class_names, seed, source)


def find_label_table(top: Path) -> LabelTable | None:
    """The table of labels of the images under a folder, in it or beside it; None where there is none.

    Raises:
        DataError: Several files could be it, or one says something that could mean several things.
    """
    found = [
        table
        for folder in (top, top.absolute().parent)
        for path in _files_in(folder)
        if path.suffix.lower() in (*ENDINGS, *LINES) and path.is_file() and path.stat().st_size <= LARGEST_BYTES
        if (said := _said(path)) is not None and (table := _table(said, top, is_inside=folder is top)) is not None
    ]
    if len(found) > 1:
        listed = " and ".join(f"`{table.path.name}`" for table in found)
        raise DataError(f"data `{top}`: found several tables of labels: {listed}, expected one", hint="leave one there")
    return found[0] if found else None


def _files_in(folder: Path) -> list[Path]:
    """What lies in a folder; nothing in one that may not be listed, as may be that around the images."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


@dataclass(frozen=True)
class _Row:
    """A line of a table."""

    line: int
    file: str
    labels: frozenset[str]
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class _Said:
    """What a table says: its lines, the classes where columns give them, and what should be told of it."""

    path: Path
    rows: Sequence[_Row]
    columns: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def _said(path: Path) -> _Said | None:
    """What a file says; None where it is no such table, which its first line tells of most."""
    try:
        with path.open(encoding="utf-8-sig") as opened:
            header = opened.readline(LONGEST_HEADER)
            if path.suffix.lower() in LINES:
                rows = list(_json_rows(path, header + opened.read())) if header.startswith("{") else []
                return _Said(path, rows) if any(len(row.labels) > 1 for row in rows) else None
            text = header + opened.read() if any(name in header.casefold().replace(" ", "_") for name in FILES) else ""
    except (OSError, UnicodeDecodeError):
        return None
    names = max((header.strip().split(separator) for separator in SEPARATORS), key=len)
    words = [re.sub(r"\W+", "_", name.strip(' "').casefold()) for name in names]
    if not set(words) & set(FILES) or len(words) < 2:
        return None
    file = Column(next(name for name in FILES if name in words), is_required=True)
    if BETWEEN not in text and len(words) < 3:
        _check_separators(path, file, words)
        return None
    return _csv_said(path, file, is_meant=BETWEEN in text)


def _csv_said(path: Path, file: Column, is_meant: bool) -> _Said | None:
    try:
        titles = CsvTable(path, "labels", [file], DataError).ignored
        words = {title: re.sub(r"[^\w%]+", "_", title.casefold()).replace("__", "_").strip("_") for title in titles}
        table = CsvTable(path, "labels", [file, *map(Column, dict.fromkeys(words.values()))], DataError)
    except DataError:
        if is_meant:
            raise
        return None
    texts = {title: table.texts(word) for title, word in words.items()}
    role = {kind: next((t for t, word in words.items() if word in kind), "") for kind in (SPLITS, GROUPS)}
    listing = [title for title in titles if any(BETWEEN in text for text in texts[title])]
    flags = [title for title in titles if title not in role.values() and _are_flags(texts[title])]
    if len(listing) > 1 or (listing and len(flags) > 1):
        twice = " and ".join(f"`{title}`" for title in (listing if len(listing) > 1 else [*listing, *flags])[:_NAMED])
        raise DataError(
            f"{table.subject}: the columns {twice} all say labels, expected one of labels, or only 0 and 1",
            hint="leave the others out",
        )
    if not listing and len(flags) < 2:
        _check_separators(path, file, list(words.values()))
        return None
    blank = [""] * len(table.lines)
    splits, groups = (texts.get(role[kind], blank) for kind in (SPLITS, GROUPS))
    files = table.texts(file.name)
    rows = []
    for number, line in enumerate(table.lines):
        if listing:
            labels = [label.strip() for label in texts[listing[0]][number].split(BETWEEN)]
        else:
            for title in flags:
                if texts[title][number] not in _VALUES:
                    table.fail(line, f"column `{title}`: found `{texts[title][number][:20]}`, expected 0 or 1", _SURE)
            labels = [title for title in flags if float(texts[title][number]) == 1]
        own = frozenset(label for label in labels if label.casefold() not in NOTHING or not listing)
        rows.append(_Row(line, files[number], own, splits[number], groups[number]))
    other = [title for title in titles if title not in (listing or flags) and title not in role.values()]
    remarks = [f"columns of `{path.name}` that say no labels are left out: {some(other)}"] if other else []
    if role[GROUPS]:
        remarks.append(f"images of the same `{role[GROUPS]}` are in the same part")
    return _Said(path, rows, () if listing else tuple(flags), tuple(remarks))


_VALUES = frozenset({"0", "1", "0.0", "1.0"})
_SURE = "write 1 where the image has the label and 0 where not; take images that nobody is sure of out of the table"


def _are_flags(texts: Sequence[str]) -> bool:
    """Whether a column is meant to say yes and no: CheXpert's blanks and -1 among them, which are then refused."""
    found = set(texts)
    return bool(found & _VALUES) and found <= _VALUES | {"", "-1", "-1.0"}


def _check_separators(path: Path, file: Column, words: Sequence[str]) -> None:
    """Refuse a column of labels whose fields hold lists in another notation."""
    name = next((word for word in words if word in LABELS and word not in ONE_LABEL), None)
    if name is None:
        return
    table = CsvTable(path, "labels", [file, Column(name)], DataError)
    for line, text in zip(table.lines, table.texts(name), strict=True):
        if "," in text or ";" in text:
            table.fail(line, f"column `{name}`: found `{text[:40]}`, expected labels with `|` between them", _HINT)


def _json_rows(path: Path, text: str) -> Iterator[_Row]:
    """The lines; they end where one is no object with a file and a list of labels."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            document = parse_json(line)
        except ValueError as error:
            raise DataError(f"labels `{path}`: line {number}: {error}") from error
        fields = {name.casefold(): value for name, value in document.items()} if isinstance(document, dict) else {}
        file, labels, split, group = (
            next((fields[name] for name in names if name in fields), "") for names in (FILES, LABELS, SPLITS, GROUPS)
        )
        if not file or not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
            return
        own = frozenset(str(label) for label in labels if str(label).casefold() not in NOTHING)
        yield _Row(number, str(file), own, str(split), str(group))


def _table(said: _Said, top: Path, is_inside: bool) -> LabelTable | None:
    """The table of the images under a folder; None where it names none of them, or where their folders are classes."""
    path, images = said.path, sorted(_images(top))
    folders = {tuple(part for part in name.split("/")[:-1] if split_of(part) is None) for name in images}
    if len(folders) > 1 and (said.columns or not is_inside):
        return None
    places = _places(images)
    found: dict[str, _Row] = {}
    unknown = 0
    for row in said.rows:
        text = row.file.replace("\\", "/").removeprefix("./")
        base = os.path.basename(text)
        named = places.get(text) or places.get(base) or places.get(os.path.splitext(base)[0]) or []
        if len(named) > 1:
            raise DataError(
                f"labels `{path}`: line {row.line}: `{row.file}` may be {some(named)}",
                hint="write paths of the images",
            )
        unknown += not named
        for name in named:
            if name in found:
                lines = f"lines {found[name].line} and {row.line}"
                raise DataError(f"labels `{path}`: {lines} are both of `{name}`, expected one", hint="leave one out")
            found[name] = row
    if not found:
        return None
    missing = [name for name in images if name not in found]
    if missing and len(folders) > 1:
        return None
    if missing:
        raise DataError(
            f"data `{top}`: `{path.name}` says nothing of {len(missing)} images: {some(missing)}",
            hint="add a line for each (without labels where it has none), or take the images away",
        )
    names = tuple(sorted(found))
    classes = said.columns or tuple(sorted({label for row in found.values() for label in row.labels}))
    place = {label: index for index, label in enumerate(classes)}
    labels_NK = np.zeros((len(names), len(classes)), dtype=np.int64)
    for index, name in enumerate(names):
        labels_NK[index, [place[label] for label in found[name].labels]] = 1
    remarks = (f"the labels of its images are those in `{path.name}`", *said.remarks)
    if unknown:
        remarks += (f"{unknown} lines of `{path.name}` name no image here and are left out",)
    units = tuple(found[name].group or name for name in names)
    splits = tuple(_split(path, found[name], name) for name in names)
    return LabelTable(path, classes, names, labels_NK, units, splits, remarks)


def _split(path: Path, row: _Row, name: str) -> Split | None:
    """The part that a line says, else a folder of the image that is called like one."""
    if row.split:
        split = split_of(row.split)
        if split is None:
            raise DataError(f"labels `{path}`: line {row.line}: found part `{row.split}`, expected train, val or test")
        return split
    return split_of_path(name)


def _images(top: Path) -> Iterator[str]:
    for folder, inner, files in os.walk(top):
        inner[:] = [name for name in inner if not is_nobodys(name)]
        for name in files:
            if os.path.splitext(name)[1].lower() in image_extensions() and not is_nobodys(name):
                yield Path(folder, name).relative_to(top).as_posix()


def _places(images: Sequence[str]) -> Mapping[str, list[str]]:
    """The images by path, by name and by name without its ending."""
    found: dict[str, list[str]] = {}
    for image in images:
        base = os.path.basename(image)
        for text in {image, base, os.path.splitext(base)[0]}:
            found.setdefault(text, []).append(image)
    return {**found, **{image: [image] for image in images}}
