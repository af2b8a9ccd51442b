"""What a folder of images holds, how it would be divided, and what of it could not be used; nothing is trained."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from supernets.data.decoding import KINDS, Refusal
from supernets.data.image_data import IntArray, LoadOptions, Part, count_classes
from supernets.data.image_files import find_images
from supernets.data.picture_check import Checked, Facts, check_pictures, copies, decoded
from supernets.data.stored_images import DAMAGED_SHARE, imbalance, mirrored
from supernets.data.web_dataset import ShardFolder, holds_shards, read_shards
from supernets.errors import DataError

Report = Callable[[int, int], None]
"""Told of the number of files decoded, and of all that are to be."""


@dataclass(frozen=True)
class _Seen:
    """What a source holds, and what became of its files.

    Attributes:
        folder: The folder.
        names: Names of the images.
        labels: Class index of each.
        class_names: Names of the classes in label order.
        parts: The images of each part, of those that can be used.
        checked: What decoding showed.
        copies: Names of images with the same contents, by group.
        remarks: What a user should know of the source.
        problem: Why nothing could be trained, and a remedy; None where that is no question.
    """

    folder: Path
    names: Sequence[str]
    labels: IntArray
    class_names: Sequence[str]
    parts: Mapping[Part, IntArray]
    checked: Checked
    copies: Sequence[Sequence[str]]
    remarks: Sequence[str]
    problem: tuple[str, str] | None


def survey(source: str, progress: Report = lambda done, total: None) -> dict[str, Any]:
    """Look at every file of a folder of images, or at every image in a folder of WebDataset's shards.

    Args:
        source: The path of the folder, with or without ``wds/`` in front where it holds shards.
        progress: Told of the number of files decoded, and of all that are to be.

    Returns:
        Ready for JSON: ``classes`` with the images of each by part, ``parts``, ``shards`` with the images of each,
        ``skipped`` files and why, what is ``changed`` in how many, ``modes``, ``formats``, ``columns`` and ``rows`` of
        pixels (least, median, most), ``copies`` of each other, ``labels`` where an image may have several (``mean``,
        ``without`` any), ``hflip``, ``remarks``, and the ``problem`` for which nothing could be trained, or None.

    Raises:
        DataError: There is no folder, or no images in it.
    """
    shards = read_shards(source) if holds_shards(source) else None
    seen = _in_files(source, progress) if shards is None else _in_shards(shards, progress)
    options, remarks = mirrored(LoadOptions(image_side=1), seen.folder.resolve().name, seen.class_names)
    counts = {part: count_classes(seen.labels[each], len(seen.class_names)) for part, each in seen.parts.items()}
    in_shards = Counter(name.partition("/")[0] for name in seen.names) if shards is not None else {}
    refusals = seen.checked.refusals if shards is None else {}
    return {
        "schema": 1,
        "source": source,
        "folder": str(seen.folder),
        "images": len(seen.names),
        "labels": _labels(seen.labels) if seen.labels.ndim == 2 else None,
        "shards": dict(in_shards),
        "classes": {
            name: {part: int(counts[part][label]) for part in seen.parts} for label, name in enumerate(seen.class_names)
        },
        "parts": {part: len(each) for part, each in seen.parts.items()} if seen.problem is None else None,
        **_pixels(seen.checked),
        "skipped": [
            {"name": name, "why": refusal.kind, "detail": refusal.detail} for name, refusal in refusals.items()
        ],
        "copies": _copies(seen),
        "hflip": 0.5 if options.hflip is None else options.hflip,
        "remarks": [*seen.remarks, *remarks, *imbalance(seen.labels[seen.parts["train"]], seen.class_names)],
        "problem": None if seen.problem is None else seen.problem[0],
        "hint": "" if seen.problem is None else seen.problem[1],
    }


def _in_files(source: str, progress: Report) -> _Seen:
    found = find_images(source)
    names, root = list(found.names), found.layout.root
    checked = check_pictures(root, names, progress)
    parts: dict[Part, IntArray] = {"train": np.arange(len(names), dtype=np.int64)}
    problem = None
    try:
        parts = found.divided(LoadOptions.seed)
        parts = found.usable(parts, checked)
    except DataError as error:
        problem = str(error), error.hint
    same = copies(root, (name for name in names if name in checked.facts))
    return _Seen(root, names, found.labels, found.class_names, parts, checked, same, found.remarks, problem)


def _in_shards(found: ShardFolder, progress: Report) -> _Seen:
    """Images of shards are not looked at before a training, so one that cannot be read is not skipped: it ends it."""
    names, store, facts, refusals = found.names, found.open_store(), dict[str, Facts](), dict[str, Refusal]()
    by_contents: dict[bytes, list[str]] = {}
    for index, name in enumerate(names):
        content = store.content(index)
        result = decoded(io.BytesIO(content))
        if isinstance(result, Refusal):
            refusals[name] = result
        else:
            facts[name] = result
            by_contents.setdefault(hashlib.sha256(content).digest(), []).append(name)
        progress(index + 1, len(names))
    checked, remarks = Checked(facts, refusals), list(found.remarks)
    parts: dict[Part, IntArray] = {"train": np.arange(len(names), dtype=np.int64)}
    problem = None
    try:
        parts = found.divided(LoadOptions.seed)
        damaged = {part: sum(names[index] in refusals for index in each.tolist()) for part, each in parts.items()}
        if refusals:
            words = f"{len(refusals)} of {len(names)} images cannot be read: {'; '.join(checked.skipped_by_kind())}"
            if damaged["train"] < len(refusals) or damaged["train"] > DAMAGED_SHARE * len(parts["train"]):
                raise DataError(f"data `{found.source}`: {words}", hint="write the shards again without them")
            remarks.append(f"{words}; others take their places in training")
    except DataError as error:
        problem = str(error), error.hint
    same = [group for group in by_contents.values() if len(group) > 1]
    return _Seen(found.folder, names, found.labels, found.class_names, parts, checked, same, remarks, problem)


def _pixels(checked: Checked) -> dict[str, Any]:
    facts = checked.facts.values()
    kinds = Counter(kind for each in facts for kind in each.kinds)
    return {
        "changed": {words: kinds[kind] for kind, words in KINDS.items() if kinds[kind]},
        "modes": dict(Counter(each.mode for each in facts).most_common()),
        "formats": dict(Counter(each.form for each in facts).most_common()),
        "columns": _range(each.columns for each in facts),
        "rows": _range(each.rows for each in facts),
    }


def _labels(labels: IntArray) -> dict[str, Any]:
    counts = labels.sum(axis=1)
    return {"mean": float(counts.mean()), "without": int((counts == 0).sum())}


def _range(numbers: Iterable[int]) -> dict[str, int]:
    ordered = sorted(numbers)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "most": ordered[-1]} if ordered else {}


def _copies(seen: _Seen) -> dict[str, Any]:
    """Files with the same contents: how many groups, and those that lie in several parts, or in several classes."""
    label_of = dict(zip(seen.names, seen.labels.tolist(), strict=True))
    part_of = {seen.names[index]: part for part, each in seen.parts.items() for index in each.tolist()}
    return {
        "groups": len(seen.copies),
        "across_parts": [group for group in seen.copies if len({part_of.get(name) for name in group}) > 1],
        "across_classes": [group for group in seen.copies if len({str(label_of[name]) for name in group}) > 1],
    }
