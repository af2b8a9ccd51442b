"""What a controller is: ask for genotypes, tell what became of them.

Legend of array suffixes: n genotypes, c choices, k objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nas.objectives.problem import Floats, SearchProblem
from nas.records.trial import State
from search_spaces import Genotypes


@dataclass(frozen=True)
class Outcome:
    """What became of one proposal.

    Attributes:
        costs: ``[k]``, lower is better; NaN for the evaluated objective unless ``state`` is done.
        excess: By what share of a limit it is out of bounds; not positive where all hold.
        is_repeated: Whether the network had been proposed before; the outcome then comes from memory.
        scores: Numbers that the evaluator reports beside the objective, by name.
    """

    state: State
    costs: tuple[float, ...]
    excess: float
    is_repeated: bool
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Outcomes:
    """What became of a batch of proposals, in their order; iterate for one at a time.

    Attributes:
        states: State of each proposal, ``[n]``.
        costs_nk: As `Outcome.costs`.
        excess_n: As `Outcome.excess`.
        is_repeated_n: As `Outcome.is_repeated`.
        scores: As `Outcome.scores`, ``[n]``.
    """

    states: Sequence[State]
    costs_nk: Floats
    excess_n: Floats
    is_repeated_n: npt.NDArray[np.bool_]
    scores: Sequence[Mapping[str, float]]

    @staticmethod
    def of(outcomes: Sequence[Outcome]) -> Outcomes:
        """One or more outcomes as a batch."""
        return Outcomes(
            [outcome.state for outcome in outcomes],
            np.array([outcome.costs for outcome in outcomes], dtype=np.float64),
            np.array([outcome.excess for outcome in outcomes], dtype=np.float64),
            np.array([outcome.is_repeated for outcome in outcomes], dtype=np.bool_),
            [outcome.scores for outcome in outcomes],
        )

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[Outcome]:
        columns = (self.costs_nk.tolist(), self.excess_n.tolist(), self.is_repeated_n.tolist(), self.scores)
        for state, costs, excess, is_repeated, scores in zip(self.states, *columns, strict=True):
            yield Outcome(state, tuple(costs), excess, is_repeated, scores)

    @property
    def is_new_n(self) -> npt.NDArray[np.bool_]:
        """Which proposals were done, for the first time, ``[n]``."""
        is_done_n = np.fromiter((state is State.DONE for state in self.states), dtype=np.bool_, count=len(self.states))
        return is_done_n & ~self.is_repeated_n


class Controller(Protocol):
    """Proposes genotypes, a batch at a time.

    The search asks, evaluates, and tells of everything it was given, before it asks again. Only at its very end a part
    of the last batch may be left untold.
    """

    def ask(self, count: int) -> Genotypes:
        """The next valid genotypes to try, at least one and up to ``count``; none when nothing new is left.

        Returns:
            Rows ``[n, c]``, distinct. Fewer than ``count`` where results are needed before there can be more.
        """
        ...

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """What became of the first ``n`` genotypes ``[n, c]`` that were asked last, in their order."""
        ...


@runtime_checkable
class SettlingController(Controller, Protocol):
    """A controller that ends with an answer of its own, which it may never have proposed."""

    def settle(self) -> Genotypes | None:
        """The genotype ``[c]`` that the search has led to; None where it has learnt nothing yet."""
        ...


ControllerFactory = Callable[[SearchProblem], Controller]
