"""Known accuracies in place of evaluations: a table of networks of a space, by the user or by a benchmark.

Legend of array suffixes: m networks of the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.errors import EvaluationError, UsageError
from nas.evaluation.evaluators import EvaluationResult, Evaluator
from nas.evaluation.listed_space import ListedSpace
from nas.objectives.objective import ACCURACY, PREDICTED_ACCURACY
from nas.records.accuracies import read_accuracies
from search_spaces import Architecture, SearchSpace
from search_spaces.csv_table import Column
from search_spaces.errors import NasError
from search_spaces.json_file import parse_json

if TYPE_CHECKING:
    from nas.predictors import FewLabelPredictor, SpaceEncoder

MOST_LESSONS = 1024
"""Rows that interpolation learns from, drawn at random where there are more, since its cost grows with their cube."""
_ARCHITECTURES = Column("architecture", ("network",), is_required=True)


@dataclass(frozen=True)
class AccuracyTable:
    """Networks whose accuracy is known.

    Attributes:
        path: Where it was read.
        base: The space that the networks are of.
        accuracy: Share of images by network.
        is_interpolated: Whether other networks are rated too, by prediction.
    """

    path: Path
    base: SearchSpace
    accuracy: Mapping[Architecture, float]
    is_interpolated: bool = False

    @staticmethod
    def read(path: Path, space: SearchSpace, is_interpolated: bool = False) -> AccuracyTable:
        """Read a CSV file with the columns ``architecture`` and ``accuracy``; other columns are ignored.

        Args:
            path: Path of the file. An architecture is written as JSON, whole or its choices alone, as the name of a
                published network, or in its space's short form.
            space: What the networks belong to.
            is_interpolated: Whether other networks are rated too, by prediction.

        Raises:
            UsageError: The file or a line of it cannot be used; the message names the line.
        """
        accuracy: dict[Architecture, float] = {}
        for row in read_accuracies(path, _ARCHITECTURES):
            try:
                architecture = _architecture(space, row.network)
            except NasError as error:
                raise UsageError(f"accuracies `{path}`: line {row.line}: {error}", error.hint) from error
            known = accuracy.setdefault(architecture, row.accuracy)
            if known != row.accuracy:
                raise UsageError(
                    f"accuracies `{path}`: line {row.line}: found {row.accuracy:.2%} for a network that an earlier line"
                    f" gives {known:.2%}",
                    "keep the accuracy that is right",
                )
        if not accuracy:
            raise UsageError(f"accuracies `{path}`: found no networks, expected at least one")
        return AccuracyTable(path, space, accuracy, is_interpolated)

    @cached_property
    def space(self) -> SearchSpace:
        """The networks that can be rated, as a space: those of the table, or all."""
        return self.base if self.is_interpolated else ListedSpace(self.base, self.base.encode(list(self.accuracy)))

    @property
    def digest(self) -> str:
        """Changes when a network or an accuracy does."""
        rows = sorted(f"{architecture.to_json()} {value!r}" for architecture, value in self.accuracy.items())
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]

    @property
    def source(self) -> str:
        """What the accuracies of a search rest on, in a line."""
        others = "; those of other networks are predicted from them" if self.is_interpolated else ""
        return f"accuracies: looked up in `{self.path.name}`, which has {len(self.accuracy):,} networks{others}"

    def evaluator(self) -> Evaluator:
        """What rates the networks.

        Raises:
            UsageError: Nothing can be learnt from the table: it has too few networks, or all of them are alike.
        """
        return InterpolatingEvaluator(self) if self.is_interpolated else TableEvaluator(self)


class TableEvaluator:
    """Looks accuracies up.

    Args:
        table: What is known.
    """

    name = ACCURACY

    def __init__(self, table: AccuracyTable) -> None:
        self._table = table

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """The accuracy of one network; ``seed`` changes nothing."""
        known = self._table.accuracy.get(architecture)
        if known is None:
            raise EvaluationError(f"`{self._table.path}` has no such network")
        return EvaluationResult(known, {})


class InterpolatingEvaluator:
    """Looks accuracies up, and predicts those of other networks from them.

    The standard deviation of what is predicted stands beside it, and is 0 where the table has the network.

    Args:
        table: What is known.

    Raises:
        UsageError: The table has too few networks, or all of them are alike.
    """

    name = PREDICTED_ACCURACY

    def __init__(self, table: AccuracyTable) -> None:
        self._table = table
        self._encode, self._predictor = _fitted(table)

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """The accuracy of one network, known or predicted; ``seed`` changes nothing."""
        known = self._table.accuracy.get(architecture)
        if known is not None:
            return EvaluationResult(known, {"standard_deviation": 0.0})
        prediction = self._predictor.predict(self._encode(self._table.base.encode([architecture])))
        mean = min(max(float(prediction.mean_n[0]), 0.0), 1.0)
        return EvaluationResult(mean, {"standard_deviation": float(prediction.std_n[0])})


def _fitted(table: AccuracyTable) -> tuple[SpaceEncoder, FewLabelPredictor]:
    from nas.predictors import FewLabelPredictor, SpaceEncoder

    known = list(table.accuracy)
    if len(known) > MOST_LESSONS:
        drawn_m = np.random.default_rng(0).choice(len(known), MOST_LESSONS, replace=False)
        known = [known[row] for row in np.sort(drawn_m)]
    encode = SpaceEncoder(table.base)
    labels = [table.accuracy[architecture] for architecture in known]
    return encode, FewLabelPredictor(by_rank=False).fit(encode(table.base.encode(known)), labels)


def _architecture(space: SearchSpace, text: str) -> Architecture:
    """The architecture that a field of a table names."""
    if text.startswith("{"):
        try:
            data = parse_json(text)
        except ValueError as error:
            raise UsageError(f"architecture: not valid JSON: {error}") from error
        return space.parse(data) if "choices" in data else space.from_values(data)
    name = text.removeprefix(f"{space.name}/")
    known = space.named.get(name) or space.from_text(text.removeprefix(f"{space.name}:"))
    space.encode([known])  # a short form may name networks of a larger space
    return known
