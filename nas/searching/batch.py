"""One batch of proposals: which networks are new, what is known of them, and the trials that come of them.

Legend of array suffixes: n proposals, c choices.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from latency_tables.predictor import Latencies, Latency
from nas.controllers.proposals import row_keys
from nas.executors.successive_halving import Judgement
from nas.objectives.bounds import Bounds, Measured
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
    """

    space: SearchSpace
    genotypes: Genotypes
    keys: list[bytes]
    measured: Measured
    is_repeated_n: npt.NDArray[np.bool_]
    row_of: Mapping[int, int]
    reasons: list[str]

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
    def sizes(self) -> list[tuple[int, int]]:
        """Parameters and MACs of each row."""
        return list(zip(self.measured.params_n.tolist(), self.measured.macs_n.tolist(), strict=True))

    @cached_property
    def latencies(self) -> list[dict[str, Latency]]:
        """Latencies of each row by target."""
        return self.measured.latencies()

    def only(self, numbers: Sequence[int]) -> Batch:
        """The batch of some of the new trials alone."""
        rows = [self.row_of[number] for number in numbers]
        return replace(
            self,
            genotypes=self.genotypes[rows],
            keys=[self.keys[row] for row in rows],
            measured=_rows_of(self.measured, rows),
            is_repeated_n=self.is_repeated_n[rows],
            row_of=dict(zip(numbers, range(len(rows)), strict=True)),
            reasons=[self.reasons[row] for row in rows],
        )


def plan_batch(bounds: Bounds, genotypes: Genotypes, known: Container[bytes], first_number: int) -> Batch:
    """What a batch of proposals ``[n, c]`` is made of.

    Args:
        known: The bytes of earlier trials' genotypes.
        first_number: Number of the first new trial.

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
    measured = bounds.measure(genotypes)
    return Batch(
        space=space,
        genotypes=genotypes,
        keys=keys,
        measured=measured,
        is_repeated_n=is_repeated_n,
        row_of=dict(zip(range(first_number, first_number + len(rows)), rows, strict=True)),
        reasons=bounds.reasons(measured),
    )


def make_trial(batch: Batch, number: int, judgement: Judgement | None, objective: str) -> Trial:
    """The trial of a new network of a batch.

    Args:
        judgement: Result of its evaluation; None where it is out of bounds, or there is nothing to evaluate.
        objective: Name of what was evaluated.
    """
    row = batch.row_of[number]
    params, macs = batch.sizes[row]
    evaluation = None if judgement is None else judgement.evaluation
    result = None if evaluation is None else evaluation.result
    if evaluation is not None:
        state, reason = evaluation.state, evaluation.reason
    else:
        reason = batch.reasons[row]
        state = State.INFEASIBLE if reason else State.DONE
    return Trial(
        number=number,
        state=state,
        reason=reason,
        architecture=batch.architectures[number],
        genotype=tuple(batch.rows[row]),
        params=params,
        macs=macs,
        latency=batch.latencies[row],
        objectives={} if result is None else {objective: result.objective},
        scores={} if result is None else result.scores,
        seconds=0.0 if evaluation is None else evaluation.seconds,
        fidelity=1.0 if judgement is None else judgement.fidelity,
    )


def _rows_of(measured: Measured, rows: list[int]) -> Measured:
    latency = {
        target: Latencies(found.ms[rows], found.low_ms[rows], found.high_ms[rows], found.kind, found.extrapolated[rows])
        for target, found in measured.latency.items()
    }
    return Measured(measured.params_n[rows], measured.macs_n[rows], latency)
