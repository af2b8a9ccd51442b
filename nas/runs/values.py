"""Values as people give them in Python and in files, made into what a run folder keeps: plain numbers, texts and lists.

Scalars of numpy and of torch, paths, texts with units, tuples and sets are understood. What cannot be understood is a
`ValueError` whose message is what was expected.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Mapping
from typing import Any

from nas.objectives.units import Measure

MOST = {"seed": 2**63 - 1, "batch": 10**6, "batch_size": 10**6, "image_size": 8192, "repeats": 10**6, "workers": 4096}
"""Largest whole numbers by the name of their setting: what generators of random numbers take, and memory holds."""
MOST_OTHERWISE = 10**9


def text_of(value: object) -> str:
    """A text, a path as one, or an architecture as JSON; never blank."""
    from search_spaces import Architecture

    if isinstance(value, Architecture):
        return json.dumps(value.to_dict())
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise ValueError("a text or a path")
    if not found.strip() or "\0" in found:
        raise ValueError("a text that is not blank")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise ValueError("a text in UTF-8") from None
    return str(found)


def whole_of(value: object, least: float | None, most: int) -> int:
    """A whole number in a range; one that is written as a fraction or as a text will do."""
    expected = f"a whole number from {least or 0:g} to {most}"
    try:
        found = int(value) if isinstance(value, str) else _scalar(value)
        if int(found) != found or not (least or 0) <= found <= most:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(expected) from None
    return int(found)


def number_of(value: object, measure: Measure) -> float:
    """A number in the unit of its measure, or a text with a unit."""
    from nas.errors import UsageError

    try:
        if isinstance(value, str):
            return measure.parse(value)
        found = _scalar(value)
        measure.check(float(found), value)
        return found
    except (UsageError, TypeError, ValueError, OverflowError):
        is_share = measure.most <= 1
        least = "0 or more" if measure.may_be_zero else "more than 0"
        raise ValueError(f"{measure.expected}; finite, {'0 to 1' if is_share else least}") from None


def device_of(value: object) -> str:
    """A device by PyTorch's name, or PyTorch's own object."""
    import torch

    return str(value) if isinstance(value, torch.device) else text_of(value)


def flag_of(value: object) -> bool:
    """A truth, or numpy's."""
    import numpy as np

    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise ValueError("True or False")


def names_of(value: object) -> list[str]:
    """Names in a row: a text with commas, a list, a tuple; those of a set in the order of the alphabet."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise ValueError("names with commas, or a list of names")
    names = [text_of(name) for name in value]
    return sorted(names) if isinstance(value, (set, frozenset)) else names


def limits_of(value: object) -> dict[str, float]:
    """Limits by device or quantity: numbers in its unit, or texts with a unit.

    Raises:
        UnknownNameError: There is no such device or quantity.
    """
    from nas.objectives.quantities import get_quantity, limit_name

    if not isinstance(value, Mapping):
        raise ValueError("limits by name, for example {'pixel6': 12} or {'peak-memory': '64MB'}")
    return {
        text_of(name): number_of(each, get_quantity(limit_name(text_of(name))).measure) for name, each in value.items()
    }


def mapping_of(value: object) -> dict[str, Any]:
    """Settings by name; scalars and sequences in them are made plain."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError("settings by name, for example {'learning_rate': 1e-4}")
    return {name: _plain(each) for name, each in value.items()}


def _plain(value: object) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    try:
        return _scalar(value)
    except (TypeError, ValueError):
        return value


def _scalar(value: object) -> int | float:
    """The number of a scalar; a truth, a text and an array with axes are none."""
    if isinstance(value, (str, bool)):
        raise TypeError
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return float(value)  # type: ignore[arg-type]
