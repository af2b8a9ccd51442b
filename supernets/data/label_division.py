"""Images with labels of which they may have several, divided into parts label by label.

Legend of array suffixes: N images, U units that are divided, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernets.data.folder_layout import Split
from supernets.data.image_data import FEWEST_PER_CLASS, FRACTIONS, IntArray, Part, divide_strata
from supernets.errors import DataError

_NAMED = 5


def divide_labels(
    units: Sequence[str],
    splits: Sequence[Split | None],
    labels_NK: IntArray,
    class_names: Sequence[str],
    seed: int,
    source: str,
) -> dict[Part, IntArray]:
    """The images of each part: those that are said to be in it, else all images of a unit in the same, label by label.

    Args:
        units: What each image is divided by, for example its name.
        splits: The part that each image is said to be in; None where nothing says.
        labels_NK: Whether an image has a label, 0 or 1.
        class_names: Names of the labels, for messages.
        seed: Seed of the division.
        source: Source of the images, for messages.

    Raises:
        DataError: No image of a part has a label.
    """
    split_N = np.array([split or "train" for split in splits])
    parts: dict[Part, IntArray] = {}
    if "test" in split_N or "val" in split_N:
        parts["test"] = np.flatnonzero(split_N == ("test" if "test" in split_N else "val"))
    if "test" in split_N and "val" in split_N:
        parts["search"] = np.flatnonzero(split_N == "val")
    trained = np.flatnonzero(split_N == "train")
    missing: dict[Part, float] = {part: share for part, share in FRACTIONS.items() if part not in parts}
    names, unit_N = np.unique([units[index] for index in trained.tolist()], return_inverse=True)
    labels_UK = np.zeros((len(names), labels_NK.shape[1]), dtype=np.int64)
    np.maximum.at(labels_UK, unit_N, labels_NK[trained])
    found = divide_strata(names.tolist(), _strata(labels_UK), seed, missing)
    parts |= {part: trained[np.isin(unit_N, numbers)] for part, numbers in found.items()}
    for part, indices in parts.items():
        empty = np.flatnonzero(labels_NK[indices].sum(axis=0) == 0).tolist()
        if empty:
            raise DataError(
                f"data `{source}`: no image of the {part} part has the label {some([class_names[k] for k in empty])}",
                hint="add images, or take the class away",
            )
    return parts


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are, for messages."""
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED])
    return f"{shown} and {len(names) - _NAMED} more" if len(names) > _NAMED else shown


def _strata(labels_UK: IntArray) -> IntArray:
    """The rarest label of each unit, so that rare ones are in all parts; those without labels make one more."""
    classes = labels_UK.shape[1]
    order = np.argsort(labels_UK.sum(axis=0), kind="stable")
    has = labels_UK[:, order] > 0
    strata = np.where(has.any(axis=1), has.argmax(axis=1), classes)
    sizes = np.bincount(strata, minlength=classes + 1)
    merged: IntArray = np.where(sizes[strata] < FEWEST_PER_CLASS, sizes.argmax(), strata)
    return merged
