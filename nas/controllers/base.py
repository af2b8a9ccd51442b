"""What a controller is: ask for a genotype, tell what became of it. Legend: n genotypes, c choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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
        fastest: The network with the lowest upper latency that is known, as one row ``[1, c]``.
    """

    space: SearchSpace
    seed: int
    excess_ms: Callable[[Genotypes], npt.NDArray[np.float64]]
    fastest: Genotypes


@dataclass(frozen=True)
class Outcome:
    """What became of a proposal.

    Attributes:
        objective: Higher is better; NaN unless ``state`` is done.
        latency_ms: Lower is better.
        excess_ms: By how much the upper latency exceeds the bound; not positive where it holds.
        is_repeated: Whether the network had been proposed before; the outcome then comes from memory.
    """

    state: State
    objective: float
    latency_ms: float
    excess_ms: float
    is_repeated: bool


class Controller(Protocol):
    """Proposes genotypes one at a time."""

    def ask(self) -> Genotypes | None:
        """The next valid genotype ``[c]`` to try, or None when nothing new is left to propose."""
        ...

    def tell(self, genotype: Genotypes, outcome: Outcome) -> None:
        """What became of the genotype that was asked last."""
        ...


ControllerFactory = Callable[[SearchProblem], Controller]
