"""Images in folders, a sub-folder per class."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernets.data.decoding import decode
from supernets.data.folder_layout import Layout, Split, find_layout
from supernets.data.image_data import (
    FEWEST_PER_CLASS,
    FRACTIONS,
    PARTS,
    Division,
    IntArray,
    LoadOptions,
    Part,
    check_classes,
    count_classes,
    digest_of,
    divide,
)
from supernets.data.image_index import ImageIndex, Names, index_images
from supernets.data.known_classes import held_out_halves
from supernets.data.label_division import some
from supernets.data.label_map import find_map, mapped
from supernets.data.label_table import LabelTable, find_label_table
from supernets.data.mask_folder import MaskedData, MaskStore, find_masks, holds_masks
from supernets.data.picture_check import Checked, check_pictures
from supernets.data.stored_images import StoredData, mirrored
from supernets.data.web_dataset import holds_shards, load_shards
from supernets.errors import DataError

CHECKED_WHOLE = 20_000
"""Of a folder with more images, those to train on are not decoded ahead: a damaged one is replaced when it is met."""
MOST_SKIPPED = 0.5
"""Share of the images that may be unreadable before nothing is trained on the rest."""


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
class Found:
    """The images of a folder.

    Attributes:
        source: The text that names the folder.
        layout: How it is laid out.
        class_names: Names of the classes in label order.
        names: Names of the files.
        labels: Class index ``(N,)`` of each file, or whether it has each label ``(N, K)``.
        sizes: Size of each file in bytes.
        held_out: Indices of files that the folder itself holds out, by part.
        trained: Number of the files, the first ones, that are not held out.
        remarks: What of all that should be said.
        table: What says the labels and divides the images; None for folders and lists of classes.
    """

    source: str
    layout: Layout
    class_names: tuple[str, ...]
    names: Names
    labels: IntArray
    sizes: IntArray
    held_out: Mapping[Part, IntArray]
    trained: int
    remarks: tuple[str, ...]
    table: LabelTable | MaskStore | None = None

    def divided(self, seed: int, trained_elsewhere: bool = False) -> dict[Part, IntArray]:
        """The indices of each part, of all files whether they can be read or not.

        Args:
            seed: Seed of the division.
            trained_elsewhere: Whether search and test share what the folder holds out.

        Raises:
            DataError: There are fewer than two classes, or too few files in one.
        """
        if self.table is not None:
            return self.table.divided(seed, self.source)
        names, labels = self.names[: self.trained], self.labels[: self.trained]
        held_out = dict(self.held_out)
        if trained_elsewhere and "test" in held_out and "search" not in held_out:
            held_out = held_out_halves(self.labels, held_out["test"], self.names, seed)
        taken = {part: fraction for part, fraction in FRACTIONS.items() if part not in held_out}
        check_classes(labels, self.class_names, self.source, FEWEST_PER_CLASS if taken else 1)
        parts = divide(names, labels, self.class_names, seed, taken, self.source) if taken else {}
        parts.setdefault("train", np.arange(self.trained, dtype=np.int64))
        return {**parts, **held_out}

    def checked(self, parts: Mapping[Part, IntArray]) -> Checked:
        """What becomes of the files of these parts when they are decoded."""
        is_small = len(self.names) <= CHECKED_WHOLE
        indices = [parts[part] for part in PARTS if is_small or part != "train"]
        return check_pictures(self.layout.root, [self.names[index] for index in np.concatenate(indices).tolist()])

    def usable(self, parts: Mapping[Part, IntArray], checked: Checked) -> dict[Part, IntArray]:
        """The indices of each part without what cannot be read.

        Raises:
            DataError: Too little is left.
        """
        if not checked.refusals:
            return dict(parts)
        is_skipped = np.array([name in checked.refusals for name in self.names], dtype=bool)
        left = {part: indices[~is_skipped[indices]] for part, indices in parts.items()}
        hint = "replace the files, or take them away"
        skipped = "; ".join(checked.skipped_by_kind())
        if len(checked.refusals) > MOST_SKIPPED * len(self.names):
            raise DataError(
                f"data `{self.source}`: {len(checked.refusals)} of {len(self.names)} images cannot be used: {skipped}",
                hint=hint,
            )
        for part, indices in left.items():
            before, now = (count_classes(self.labels[i], len(self.class_names)) for i in (parts[part], indices))
            empty = np.flatnonzero((before > 0) & (now == 0)).tolist()
            if empty:
                raise DataError(
                    f"data `{self.source}`: class `{self.class_names[empty[0]]}` has {before[empty[0]]} images in the"
                    f" {part} part, and none can be used; {skipped}",
                    hint=hint,
                )
        return left


class FolderSource:
    """Images of a folder: a sub-folder per class, or such folders under ``train``, ``val`` and ``test``.

    The folders of parts may be spelt in other ways, see `supernets.data.folder_layout`. Where there is no ``val``, or
    no ``test``, the missing one of `search` and `test` is taken from ``train``, except that a lone ``val`` is the test
    part, as published results use it. A folder may also hold shards, see `supernets.data.web_dataset`, or pictures and
    masks, see `supernets.data.mask_folder`. A `supernets.data.image_data.DataSource`.
    """

    expected = "a folder of images"

    def understands(self, text: str) -> bool:
        """Whether there is a file or folder of this path; `load` refuses a file."""
        return Path(text).exists() or holds_shards(text)

    def load(self, text: str, options: LoadOptions) -> StoredData:
        """The images of the folder, but for those that cannot be read, which its remarks name.

        Raises:
            DataError: The folder holds nothing to train on, or too much of it cannot be read.
        """
        if holds_shards(text):
            return load_shards(text, options)
        if holds_masks(Path(text)):
            return MaskedData(text, find_masks(Path(text)), options)
        found = find_images(text)
        parts = found.divided(options.seed, options.trained_elsewhere)
        checked = found.checked(parts)
        names = list(found.names)
        division = Division(
            found.usable(parts, checked),
            digest_of(parts, names, found.labels.tolist()),
            contents=digest_of(parts, names, found.sizes.tolist()),
            skipped=tuple(checked.refusals),
        )
        options, remarks = mirrored(options, Path(text).resolve().name, found.class_names)
        store = FileStore(found.layout.root, found.names, found.labels)
        remarks = (*found.remarks, *checked.remarks(), *remarks)
        return StoredData(text, found.class_names, division, store, options, remarks)


def find_images(source: str) -> Found:
    """Find the images of a folder, their classes, and the parts that it holds out.

    Args:
        source: The path of the folder.

    Raises:
        DataError: There is no folder, it holds no images, or a part has a class of its own.
    """
    root = Path(source)
    if not root.is_dir():
        raise DataError(f"data `{source}`: found a file, expected a folder with a sub-folder of images per class")
    if holds_masks(root):
        store = find_masks(root)
        sizes = np.array([(root / name).stat().st_size for name in store.pictures], dtype=np.int64)
        columns = (store.class_names, Names.of(store.pictures), store.labels, sizes)
        return Found(source, Layout(root, {}), *columns, {}, len(store.pictures), (), store)
    table = find_label_table(root)
    if table is not None:
        sizes = np.array([(root / name).stat().st_size for name in table.names], dtype=np.int64)
        columns = (table.class_names, Names.of(table.names), table.labels, sizes)
        return Found(source, Layout(root, {}), *columns, {}, len(table.names), table.remarks, table)
    layout = find_layout(root)
    known = None if layout.splits else find_map(layout.root)
    if known is not None:
        found = mapped(layout.root, known[1])
        remarks = (*layout.remarks, f"the classes of its images are those in `{known[0].name}`")
        return Found(source, layout, *found, {}, len(known[1]), remarks)
    if not layout.splits:
        index = index_images(layout.root)
        remarks = (*layout.remarks, *_left_out("", index))
        return Found(
            source, layout, index.classes, index.names, index.labels, index.sizes, {}, len(index.names), remarks
        )
    return _find_parts(source, layout)


def _find_parts(source: str, layout: Layout) -> Found:
    """Images of a folder that is divided already, wholly or in part."""
    indices: list[tuple[Split, str, ImageIndex]] = [
        (split, folder, index_images(layout.root / folder))
        for split, folders in layout.splits.items()
        for folder in folders
    ]
    classes = tuple(sorted({name for split, _, index in indices if split == "train" for name in index.classes}))
    label_of = {_composed(name): label for label, name in enumerate(classes)}
    remarks = list(layout.remarks)
    labels: list[IntArray] = []
    places: dict[Split, list[IntArray]] = {}
    count = 0
    for split, folder, index in indices:
        _check_known(layout.root / folder, index, classes, label_of)
        own = np.array([label_of.get(_composed(name), -1) for name in index.classes], dtype=np.int64)
        labels.append(own[index.labels])
        places.setdefault(split, []).append(np.arange(count, count + len(index.names), dtype=np.int64))
        count += len(index.names)
        remarks += _left_out(f"{folder}: ", index)
    held_out: dict[Part, IntArray] = {}
    all_labels = np.concatenate(labels)
    for split in ("val", "test"):
        if split in places:
            part: Part = "search" if split == "val" and "test" in places else "test"
            held_out[part] = np.concatenate(places[split])
            missing = sorted(set(range(len(classes))) - set(all_labels[held_out[part]].tolist()))
            if missing:
                names = some([classes[label] for label in missing])
                remarks.append(f"no image of {names} is in {some(list(layout.splits[split]))}")
    return Found(
        source,
        layout,
        classes,
        Names.joined([index.names.under(folder) for _, folder, index in indices]),
        all_labels,
        np.concatenate([index.sizes for _, _, index in indices]),
        held_out,
        sum(map(len, places["train"])),
        tuple(remarks),
    )


def _composed(name: str) -> str:
    """A name with its accents as other systems write them: some put them into a character of their own."""
    return unicodedata.normalize("NFC", name)


def _check_known(folder: Path, index: ImageIndex, classes: Sequence[str], known: Mapping[str, int]) -> None:
    counts = dict(zip(index.classes, index.counts, strict=True))
    unknown = sorted(name for name, count in counts.items() if count and _composed(name) not in known)
    if not unknown:
        return
    spelt = {name.casefold(): name for name in classes}
    close = spelt.get(unknown[0].casefold()) or next(iter(difflib.get_close_matches(unknown[0], classes, n=1)), None)
    what = f"class {some(unknown)} is" if len(unknown) == 1 else f"classes {some(unknown)} are"
    raise DataError(
        f"data `{folder}`: {what} not among those to train on, {some(classes)}",
        hint=f"did you mean `{close}`?" if close else "give each part the same class folders",
    )


def _left_out(prefix: str, index: ImageIndex) -> list[str]:
    """What lies beside the images, in a line."""
    if not index.others:
        return []
    kinds = [f"{count} {kind}" for kind, count in sorted(index.others.items(), key=lambda item: -item[1])]
    return [f"{prefix}{sum(index.others.values())} files are no images by their names and left out: {', '.join(kinds)}"]
