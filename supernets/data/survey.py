"""What a folder of images holds, how it would be divided, and what of it could not be used; nothing is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from supernets.data.decoding import KINDS
from supernets.data.image_data import IntArray, LoadOptions, Part
from supernets.data.image_files import Found, find_images
from supernets.data.picture_check import Checked, check_pictures, copies
from supernets.data.stored_images import imbalance, mirrored
from supernets.errors import DataError


def survey(source: str, progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Look at every file of a folder of images.

    Args:
        source: The path of the folder.
        progress: Told of the number of files decoded, and of all that are to be.

    Returns:
        Ready for JSON: ``classes`` with the images of each by part, ``parts``, ``skipped`` files and why, what is
        ``changed`` in how many, ``modes``, ``formats``, ``columns`` and ``rows`` of pixels (least, median, most),
        ``copies`` of each other, ``hflip``, ``remarks``, and the ``problem`` for which nothing could be trained, or
        None.

    Raises:
        DataError: There is no folder, or no images in it.
    """
    found = find_images(source)
    names = list(found.names)
    checked = check_pictures(found.layout.root, names, progress)
    parts: dict[Part, IntArray] = {"train": np.arange(len(names), dtype=np.int64)}
    problem, hint = None, ""
    try:
        parts = found.divided(LoadOptions.seed)
        parts = found.usable(parts, checked)
    except DataError as error:
        problem, hint = str(error), error.hint
    options, remarks = mirrored(LoadOptions(image_side=1), Path(source).resolve().name, found.class_names)
    counts = {part: np.bincount(found.labels[each], minlength=len(found.class_names)) for part, each in parts.items()}
    part_of = {names[index]: part for part, each in parts.items() for index in each.tolist()}
    return {
        "schema": 1,
        "source": source,
        "folder": str(found.layout.root),
        "images": len(names),
        "classes": {
            name: {part: int(counts[part][label]) for part in parts} for label, name in enumerate(found.class_names)
        },
        "parts": {part: len(each) for part, each in parts.items()} if problem is None else None,
        **_pixels(checked),
        "skipped": [
            {"name": name, "why": refusal.kind, "detail": refusal.detail} for name, refusal in checked.refusals.items()
        ],
        "copies": _copies(found, (name for name in names if name in checked.facts), part_of),
        "hflip": 0.5 if options.hflip is None else options.hflip,
        "remarks": [*found.remarks, *remarks, *imbalance(found.labels[parts["train"]], found.class_names)],
        "problem": problem,
        "hint": hint,
    }


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


def _range(numbers: Iterable[int]) -> dict[str, int]:
    ordered = sorted(numbers)
    return {"least": ordered[0], "median": ordered[len(ordered) // 2], "most": ordered[-1]} if ordered else {}


def _copies(found: Found, names: Iterable[str], part_of: Mapping[str, str]) -> dict[str, Any]:
    """Files with the same contents: how many groups, and those that lie in several parts, or in several classes."""
    groups = copies(found.layout.root, names)
    label_of = dict(zip(found.names, found.labels.tolist(), strict=True))
    return {
        "groups": len(groups),
        "across_parts": [group for group in groups if len({part_of.get(name) for name in group}) > 1],
        "across_classes": [group for group in groups if len({label_of[name] for name in group}) > 1],
    }
