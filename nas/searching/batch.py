"""One batch of proposals: which networks are new, what is known of them, and the trials that come of them.

Legend of array suffixes: n proposals, c choices.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latency_tables.predictor import Latency
from nas.controllers.proposals import row_keys
from nas.executors.successive_halving import FidelityResult
from nas.objectives.bounds import Bounds, PredictedCosts
from nas.objectives.objective import Objective
from nas.objectives.quantities import Quantity
from nas.records.trial import State, Trial
from search_spaces import Architecture, Genotypes, SearchSpace


@dataclass(frozen=True)
class Batch:
    """Proposals of a controller, in its order.

    Attributes:
        space: What they belong to.
        genotypes: ``[n, c]``; valid.
        keys: Each row as bytes, ``[n]``.
        is_repeated_n: Which were proposed before, in this batch or another.
        row_of: The row of each new trial by its number; numbers ascend.
        reasons: What each row breaks, ``[n]``; empty where it is within bounds.
        score_n: The score of each row, ``[n]``, where it is computed in columns; None where it is evaluated, if at all.
    """

    space: SearchSpace
    genotypes: Genotypes
    keys: list[bytes]
    predicted: PredictedCosts
    is_repeated_n: npt.NDArray[np.bool_]
    row_of: Mapping[int, int]
    reasons: list[str]
    score_n: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def numbers(self) -> list[int]:
        """Of the new trials."""
        return list(self.row_of)

    @cached_property
    def tasks(self) -> list[int]:
        """Numbers of the new trials that are within bounds and to be evaluated."""
        return [number for number, row in self.row_of.items() if not self.reasons[row]]

    @property
    def task_rows(self) -> Iterator[tuple[int, int]]:
        """Row and number of each task."""
        return ((self.row_of[number], number) for number in self.tasks)

    @cached_property
    def infeasible(self) -> list[Trial]:
        """The new trials that are out of bounds."""
        return [make_trial(self, number, None, "") for number, row in self.row_of.items() if self.reasons[row]]

    def costs_of(self, bounds: Bounds, objectives: Sequence[Objective]) -> npt.NDArray[np.float64]:
        """The costs of all rows ``[n, k]``; NaN for what is evaluated, and for a score in columns out of bounds."""
        costs_nk = bounds.costs(self.predicted, objectives)
        if self.score_n is not None:
            costs_nk[:, 0] = np.where([not reason for reason in self.reasons], -self.score_n, np.nan)
        return costs_nk

    @cached_property
    def architectures(self) -> Mapping[int, Architecture]:
        """Of each new trial by its number."""
        decoded = self.space.decode(self.genotypes[list(self.row_of.values())])
        return dict(zip(self.row_of, decoded, strict=True))

    @cached_property
    def rows(self) -> list[list[int]]:
        """The genotypes as lists."""
        rows: list[list[int]] = self.genotypes.tolist()
        return rows

    @cached_property
    def costs(self) -> list[dict[str, float]]:
        """Quantities of each row by name."""
        return self.predicted.costs()

    @cached_property
    def latencies(self) -> list[dict[str, Latency]]:
        """Latencies of each row by target."""
        return self.predicted.latencies()

    def only(self, numbers: Sequence[int]) -> Batch:
        """The batch of some of the new trials alone."""
        rows = [self.row_of[number] for number in numbers]
        return replace(
            self,
            genotypes=self.genotypes[rows],
            keys=[self.keys[row] for row in rows],
            predicted=self.predicted.rows(rows),
            is_repeated_n=self.is_repeated_n[rows],
            row_of=dict(zip(numbers, range(len(rows)), strict=True)),
            reasons=[self.reasons[row] for row in rows],
            score_n=None if self.score_n is None else self.score_n[rows],
        )


def plan_batch(
    bounds: Bounds, genotypes: Genotypes, known: Container[bytes], first_number: int, score: Quantity | None = None
) -> Batch:
    """What a batch of proposals ``[n, c]`` is made of.

    Args:
        bounds: Space, devices and limits.
        genotypes: The proposals.
        known: The bytes of earlier trials' genotypes.
        first_number: Number of the first new trial.
        score: What ranks the networks, computed in columns; None where that is evaluated, if at all.

    Raises:
        ArchitectureError: A new row is out of range or breaks a rule of the space.
    """
    space, keys = bounds.space, row_keys(genotypes)
    new_rows: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        if key not in known:
            new_rows.setdefault(key, row)
    rows = list(new_rows.values())
    if not space.is_valid(genotypes[rows]).all():
        space.decode(genotypes[rows])  # says what is wrong
    is_repeated_n = np.ones(len(keys), dtype=np.bool_)
    is_repeated_n[rows] = False
    predicted = bounds.predict(genotypes)
    return Batch(
        space=space,
        genotypes=genotypes,
        keys=keys,
        predicted=predicted,
        is_repeated_n=is_repeated_n,
        row_of=dict(zip(range(first_number, first_number + len(rows)), rows, strict=True)),
        reasons=bounds.reasons(predicted),
        score_n=None if score is None else np.asarray(score.column(space, genotypes), dtype=np.float64),
    )


def make_trial(batch: Batch, number: int, found: FidelityResult | None, objective: str) -> Trial:
    """The trial of a new network of a batch.

    Args:
        batch: The batch.
        number: Number of the trial.
        found: What its evaluation found; None where it is out of bounds, or there is nothing to evaluate.
        objective: Name of what was evaluated, or of the score in columns.
    """
    row = batch.row_of[number]
    result, reason = None if found is None else found.evaluation.result, batch.reasons[row]
    objectives = {} if result is None else {objective: result.objective}
    if batch.score_n is not None and not reason:
        objectives = {objective: float(batch.score_n[row])}
    return Trial(
        number=number,
        state=found.evaluation.state if found else State.INFEASIBLE if reason else State.DONE,
        reason=found.evaluation.reason if found else reason,
        architecture=batch.architectures[number],
        genotype=tuple(batch.rows[row]),
        costs=batch.costs[row],
        latency=batch.latencies[row],
        objectives=objectives,
        scores={} if result is None else result.scores,
        seconds=0.0 if found is None else found.evaluation.seconds,
        fidelity=1.0 if found is None else found.fidelity,
    )
