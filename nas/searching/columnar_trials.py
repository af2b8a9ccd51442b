"""Trials of searches in which everything is computed in columns, and kept there: objectives, costs and scores.

There may be a hundred thousand of them, and hardly one is ever looked at. So a trial becomes an object when somebody
looks at it, and its line in ``trials.jsonl`` is put together from pieces of text that occur again and again.

Legend of array suffixes: n trials, c choices.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import overload

import numpy as np
import numpy.typing as npt

from latency_tables.predictor import Latencies
from nas.objectives.bounds import PredictedCosts
from nas.records.network import SIZES
from nas.records.trial import LINE, State, Trial
from nas.searching.batch import Batch, make_trial
from search_spaces import Genotypes, SearchSpace

MOST_TEXTS = 1024
"""Most combinations of neighbouring choices that have their text ready."""


class ColumnarTrials(Sequence[Trial]):
    """Trials in the order of their numbers.

    Args:
        space: Space of the networks.
        recorded: The first of them, from the record of earlier sessions.
        objective: Name of the score that is computed in columns; empty without one.

    Attributes:
        lines: Writes them as text.
    """

    def __init__(self, space: SearchSpace, recorded: Sequence[Trial] = (), objective: str = "") -> None:
        self.lines = TrialLines(space, objective)
        self._recorded = recorded
        self._objective = objective
        self._batches: list[Batch] = []
        self._starts: list[int] = []
        self._count = 0

    def add(self, batch: Batch) -> None:
        """Take in the new trials of a batch, whose numbers follow those that are here."""
        if batch.numbers:
            self._batches.append(batch)
            self._starts.append(self._count)
            self._count += len(batch.numbers)

    def of(self, numbers: Sequence[int]) -> Sequence[Trial]:
        """The trials of these numbers; they, too, become objects when they are looked at."""
        return _Chosen(self, numbers)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> list[Trial]: ...
    def __getitem__(self, index: int | slice) -> Trial | list[Trial]:
        numbers = range(self._count)[index]
        return self._trial(numbers) if isinstance(numbers, int) else [self._trial(number) for number in numbers]

    def __iter__(self) -> Iterator[Trial]:
        for batch in self._batches:
            for number in batch.numbers:
                is_recorded = number < len(self._recorded)
                yield self._recorded[number] if is_recorded else make_trial(batch, number, None, self._objective)

    def _trial(self, number: int) -> Trial:
        if number < len(self._recorded):
            return self._recorded[number]
        batch = self._batches[bisect_right(self._starts, number) - 1]
        return make_trial(batch.only([number]), number, None, self._objective)


class _Chosen(Sequence[Trial]):
    def __init__(self, trials: ColumnarTrials, numbers: Sequence[int]) -> None:
        self._trials = trials
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Trial]: ...
    def __getitem__(self, index: int | slice) -> Trial | Sequence[Trial]:
        chosen = self._numbers[index]
        return self._trials[chosen] if isinstance(chosen, int) else _Chosen(self._trials, chosen)


class TrialLines:
    """Writes the lines of trials that are computed in columns, byte for byte as `Trial.to_line` does.

    Args:
        space: Space of the networks.
        objective: Name of the score that is computed in columns; empty without one.
    """

    def __init__(self, space: SearchSpace, objective: str = "") -> None:
        self._groups = [_make_group(space, columns) for columns in _grouped_columns(space)]
        self._objective = json.dumps(objective)

    def of(self, batch: Batch, numbers: Sequence[int]) -> list[str]:
        """The lines of some new trials of a batch, without line ends.

        Raises:
            ValueError: A latency is not finite, which JSON has no word for.
        """
        rows = [batch.row_of[number] for number in numbers]
        reasons = [batch.reasons[row] for row in rows]
        pairs = [group.texts(batch.genotypes[rows]) for group in self._groups]
        choices = map(", ".join, zip(*(choices for choices, _ in pairs), strict=True))
        genotypes = map(", ".join, zip(*(indices for _, indices in pairs), strict=True))
        latencies = [_latency_texts(target, found, rows) for target, found in batch.predicted.latency.items()]
        return [
            LINE.format(
                number,
                _INFEASIBLE if reason else _DONE,
                json.dumps(reason) if reason else '""',
                f"{{{choice}}}",
                f"[{genotype}]",
                params,
                macs,
                f"{{{latency}}}",
                further,
                objective,
                "{}",
                "0.0",
                "",
            )
            for number, reason, choice, genotype, params, macs, latency, further, objective in zip(
                numbers,
                reasons,
                choices,
                genotypes,
                *(batch.predicted.columns[name][rows].tolist() for name in SIZES),
                map(", ".join, zip(*latencies, strict=True)),
                _further_texts(batch.predicted, rows),
                self._objective_texts(batch, rows),
                strict=True,
            )
        ]

    def _objective_texts(self, batch: Batch, rows: list[int]) -> list[str]:
        if batch.score_n is None:
            return ["{}"] * len(rows)
        values = batch.score_n[rows].tolist()
        return [
            "{}" if batch.reasons[row] else f"{{{self._objective}: {value!r}}}"
            for row, value in zip(rows, values, strict=True)
        ]


@dataclass(frozen=True)
class _Group:
    """Neighbouring choices with the text of each combination of their values.

    Attributes:
        strides: What an index of each column adds to the number of the combination.
        choices: ``"name": value`` of all columns, by combination.
        indices: Indices of the values, by combination.
    """

    columns: tuple[int, ...]
    strides: npt.NDArray[np.int64]
    choices: list[str]
    indices: list[str]

    def texts(self, genotypes: Genotypes) -> tuple[list[str], list[str]]:
        """The choices and the indices of genotypes ``[n, c]``, ``[n]`` each."""
        combinations = (genotypes[:, self.columns].astype(np.int64) @ self.strides).tolist()
        choices, indices = self.choices, self.indices
        return [choices[number] for number in combinations], [indices[number] for number in combinations]


def _grouped_columns(space: SearchSpace) -> list[tuple[int, ...]]:
    groups: list[list[int]] = []
    texts = MOST_TEXTS
    for column, size in enumerate(space.cardinalities.tolist()):
        texts *= size
        if texts > MOST_TEXTS:
            groups.append([])
            texts = size
        groups[-1].append(column)
    return [tuple(group) for group in groups]


def _make_group(space: SearchSpace, columns: tuple[int, ...]) -> _Group:
    members = [space.choices[column] for column in columns]
    sizes = [len(choice.values) for choice in members]
    named = [[f"{json.dumps(choice.name)}: {value}" for value in choice.values] for choice in members]
    strides = np.cumprod([1, *sizes[:0:-1]])[::-1].astype(np.int64)
    return _Group(
        columns,
        strides,
        [", ".join(texts) for texts in product(*named)],
        [", ".join(map(str, indices)) for indices in product(*map(range, sizes))],
    )


_DONE, _INFEASIBLE = json.dumps(State.DONE.value), json.dumps(State.INFEASIBLE.value)


def _further_texts(predicted: PredictedCosts, rows: list[int]) -> list[str]:
    """The costs beside the sizes with their name and a comma; empty texts where there are none."""
    names = [name for name in predicted.columns if name not in SIZES]
    if not names:
        return [""] * len(rows)
    columns = [[f"{json.dumps(name)}: {value!r}" for value in predicted.columns[name][rows].tolist()] for name in names]
    return [f'"costs": {{{", ".join(texts)}}}, ' for texts in zip(*columns, strict=True)]


def _latency_texts(target: str, found: Latencies, rows: list[int]) -> list[str]:
    columns_3n = np.stack([found.ms[rows], found.low_ms[rows], found.high_ms[rows]])
    if not np.isfinite(columns_3n).all():
        raise ValueError(f"a latency predicted for `{target}` is not finite")
    name, kind = json.dumps(target), json.dumps(found.kind)
    ends = (f'"kind": {kind}, "extrapolated": false}}', f'"kind": {kind}, "extrapolated": true}}')
    return [
        f'{name}: {{"ms": {ms!r}, "low_ms": {low!r}, "high_ms": {high!r}, {ends[is_extrapolated]}'
        for ms, low, high, is_extrapolated in zip(*columns_3n.tolist(), found.extrapolated[rows].tolist(), strict=True)
    ]
