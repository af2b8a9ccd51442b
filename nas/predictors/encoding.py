"""Architectures as features: one-hot and ordinal, alone and smoothed along the network's depth.

A choice that occurs at several places of a network (``T1.width``, ``T2.width``; ``heads.0`` to ``heads.11``) is a
sequence. What heads do in block 5 is close to what they do in block 6, so a sequence is encoded twice: each place for
itself, and blended with its neighbours, which lets a few labels speak about all places. A place that an architecture
does not have is zero in both, and thereby says something about depth.

Legend of array suffixes: n architectures, c columns, f features, p places of a sequence, v values of a choice, q
quantities such as the logarithm of parameters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from nas.errors import UsageError
from search_spaces import SearchSpace, population_cost
from search_spaces.space import Genotypes

Floats = npt.NDArray[np.float64]
Setting: TypeAlias = "float | Sequence[float]"

REACH = 2.0
"""How many places away the influence of a place has fallen to exp(-1/2)."""


@dataclass(frozen=True)
class EncodedArchitectures:
    """Features of architectures, in groups that a predictor weighs separately.

    Attributes:
        features_nf: ``[n, f]``, the groups side by side.
        widths: Number of features in each group.
    """

    features_nf: Floats
    widths: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.features_nf)

    def __getitem__(self, rows: npt.NDArray[np.integer] | npt.NDArray[np.bool_] | slice) -> EncodedArchitectures:
        return EncodedArchitectures(self.features_nf[rows], self.widths)


class SpaceEncoder:
    """Encodes genotypes of a search space, with parameters and MACs as quantities.

    Args:
        space: What the genotypes belong to.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._tables = [np.array(choice.values, dtype=np.float64) for choice in space.choices]
        ends = _log_sizes(space, space.encode([space.smallest, space.largest]))
        unordered = frozenset(choice.name for choice in space.choices if not choice.is_ordered)
        self._features = _Features([choice.name for choice in space.choices], self._tables, ends, unordered)

    def __call__(self, genotypes: Genotypes) -> EncodedArchitectures:
        """Encode valid genotypes ``[n, c]``."""
        values_nc = np.stack([table[column] for table, column in zip(self._tables, genotypes.T, strict=True)], axis=1)
        return self._features(values_nc, _log_sizes(self._space, genotypes))


class SettingsEncoder:
    """Encodes architectures that are written as settings: by name, a number, or a list of one per block or stage.

    Args:
        settings: All architectures that will be encoded, or enough of them to know every value that occurs.
        quantities_nq: Numbers known of each of them, for example the logarithm of parameters.

    Raises:
        UsageError: There are none, or a setting is no number.
    """

    def __init__(self, settings: Sequence[Mapping[str, Setting]], quantities_nq: Floats | None = None) -> None:
        if not settings:
            raise UsageError("architecture encoder: found no architecture, expected at least one")
        flat = [_flatten(each) for each in settings]
        names = list(dict.fromkeys(name for each in flat for name in each))
        values = [np.unique([each[name] for each in flat if name in each]) for name in names]
        self._columns = {name: column for column, name in enumerate(names)}
        self._features = _Features(names, values, _or_none(quantities_nq, len(flat)))

    def __call__(
        self, settings: Sequence[Mapping[str, Setting]], quantities_nq: Floats | None = None
    ) -> EncodedArchitectures:
        """Encode architectures, with the quantities that the encoder was made with.

        Raises:
            UsageError: A setting is no number, or has a name that the encoder does not know.
        """
        values_nc = np.full((len(settings), len(self._columns)), np.nan)
        for row, each in enumerate(settings):
            for name, value in _flatten(each).items():
                if name not in self._columns:
                    raise UsageError(
                        f"architecture setting `{name}` is unknown, expected one of: {', '.join(self._columns)}"
                    )
                values_nc[row, self._columns[name]] = value
        return self._features(values_nc, _or_none(quantities_nq, len(settings)))


@dataclass(frozen=True)
class _Sequence:
    columns: tuple[int, ...]
    values_v: Floats
    is_ordered: bool

    def one_hot(self, values_nc: Floats) -> Floats:
        equal_npv: Floats = (values_nc[:, self.columns, None] == self.values_v).astype(np.float64)
        return equal_npv

    def ordinal(self, values_nc: Floats) -> Floats:
        ends = self.values_v[0], self.values_v[-1]
        return np.nan_to_num(_unit_range(values_nc[:, self.columns], *ends))[:, :, None]


class _Features:
    """Turns the values of columns into groups of features.

    Columns whose names differ in numbers only are the places of one sequence, in the order given. Those that
    ``unordered`` names have codes for values, whose order means nothing.
    """

    def __init__(
        self,
        names: Sequence[str],
        values: Sequence[Floats],
        quantities_nq: Floats,
        unordered: Collection[str] = (),
    ) -> None:
        kinds: dict[str, list[int]] = {}
        for column, name in enumerate(names):
            kinds.setdefault(re.sub(r"\d+", "#", name), []).append(column)
        sequences = [
            _Sequence(
                tuple(columns),
                np.unique(np.concatenate([values[column] for column in columns])),
                all(names[column] not in unordered for column in columns),
            )
            for columns in kinds.values()
        ]
        self._single = [each for each in sequences if len(each.columns) == 1 < len(each.values_v)]
        self._repeated = [each for each in sequences if len(each.columns) > 1]
        self._quantity_range_2q = np.stack([quantities_nq.min(axis=0), quantities_nq.max(axis=0)])

    def __call__(self, values_nc: Floats, quantities_nq: Floats) -> EncodedArchitectures:
        """Encode the values of all columns, NaN where an architecture has no such place."""
        one_hot = [each.one_hot(values_nc) for each in self._repeated]
        ordinal = [each.ordinal(values_nc) for each in self._repeated if each.is_ordered]
        quantities = _unit_range(quantities_nq, *self._quantity_range_2q)
        groups = [
            [each.one_hot(values_nc) for each in self._single],
            [each.ordinal(values_nc) for each in self._single if each.is_ordered],
            [quantities[:, :, None]],
            one_hot,
            ordinal,
            [_blend(each) for each in one_hot],
            [_blend(each) for each in ordinal],
        ]
        count = len(values_nc)
        parts = [[part.reshape(count, part.shape[1] * part.shape[2]) for part in group] for group in groups]
        widths = [sum(part.shape[1] for part in group) for group in parts]
        flat = [part for group in parts for part in group]
        features_nf = np.concatenate(flat, axis=1) if flat else np.empty((count, 0))
        return EncodedArchitectures(features_nf, tuple(width for width in widths if width))


def _flatten(settings: Mapping[str, Setting]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in settings.items():
        places: list[tuple[str, object]] = [(name, value)]
        if isinstance(value, Sequence) and not isinstance(value, str):
            places = [(f"{name}.{position}", item) for position, item in enumerate(value)]
        for place, number in places:
            if not isinstance(number, (int, float)) or isinstance(number, bool) or not math.isfinite(number):
                raise UsageError(f"architecture setting `{place}`: found {number!r}, expected a finite number")
            flat[place] = float(number)
    return flat


def _or_none(quantities_nq: Floats | None, count: int) -> Floats:
    return np.empty((count, 0)) if quantities_nq is None else quantities_nq


def _log_sizes(space: SearchSpace, genotypes: Genotypes) -> Floats:
    cost = population_cost(space, genotypes)
    logs_n2: Floats = np.log(np.stack([cost.params, cost.macs], axis=1).astype(np.float64))
    return logs_n2


def _unit_range(values: Floats, low: Floats, high: Floats) -> Floats:
    """From -1 at the lower end of the range to 1 at the upper end."""
    scaled: Floats = (2.0 * values - low - high) / np.where(high > low, high - low, 1.0)
    return scaled


def _blend(features_npv: Floats) -> Floats:
    """Features whose inner products are those of ``features_npv`` blended over places with a Gaussian of `REACH`."""
    places = np.arange(features_npv.shape[1])
    closeness_pp = np.exp(-0.5 * ((places[:, None] - places) / REACH) ** 2)
    root_pp = np.linalg.cholesky(closeness_pp + 1e-6 * np.eye(len(places)))
    blended_nvq: Floats = np.tensordot(features_npv, root_pp, axes=(1, 0))
    return blended_nvq
