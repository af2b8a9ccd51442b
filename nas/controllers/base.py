"""What a controller is: ask for a genotype, tell what became of it. Legend: n genotypes, c choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from nas.trial import State
from search_spaces import Genotypes, SearchSpace


@dataclass(frozen=True)
class SearchProblem:
    """What a controller searches in.

    Attributes:
        seed: A controller that is asked and told the same proposes the same for the same seed; resuming rests on it.
        excess_ms: By how much genotypes ``[n, c]`` exceed the latency bound, ``[n]``; not positive where it holds.
        latency_ms: The latency of genotypes ``[n, c]`` that their outcomes will have, ``[n]``.
        fastest: The network with the lowest upper latency that is known, as one row ``[1, c]``.
        evaluations: The budget, for controllers whose number of steps is part of the method; None where only time
            counts.
    """

    space: SearchSpace
    seed: int
    excess_ms: Callable[[Genotypes], npt.NDArray[np.float64]]
    latency_ms: Callable[[Genotypes], npt.NDArray[np.float64]]
    fastest: Genotypes
    evaluations: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a proposal.

    Attributes:
        objective: Higher is better; NaN unless ``state`` is done.
        latency_ms: Lower is better.
        excess_ms: By how much the upper latency exceeds the bound; not positive where it holds.
        is_repeated: Whether the network had been proposed before; the outcome then comes from memory.
        scores: Numbers that the evaluator reports beside the objective, by name.
    """

    state: State
    objective: float
    latency_ms: float
    excess_ms: float
    is_repeated: bool
    scores: Mapping[str, float] = field(default_factory=dict)


class Controller(Protocol):
    """Proposes genotypes one at a time."""

    def ask(self) -> Genotypes | None:
        """The next valid genotype ``[c]`` to try, or None when nothing new is left to propose."""
        ...

    def tell(self, genotype: Genotypes, outcome: Outcome) -> None:
        """What became of the genotype that was asked last."""
        ...


@runtime_checkable
class SettlingController(Controller, Protocol):
    """A controller that ends with an answer of its own, which it may never have proposed."""

    def settle(self) -> Genotypes | None:
        """The genotype ``[c]`` that the search has led to; None where it has learnt nothing yet."""
        ...


ControllerFactory = Callable[[SearchProblem], Controller]
