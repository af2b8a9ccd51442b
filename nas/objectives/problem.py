"""What a controller searches in: a space, its costs and its limits as functions of populations.

Legend of array suffixes: n genotypes, c choices, k objectives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas.objectives.objective import Objective
from search_spaces import Genotypes, SearchSpace

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SearchProblem:
    """What a controller searches in.

    Everything is minimised: an objective that is evaluated, such as accuracy, costs its negative. The first objective
    leads; controllers that know but one minimise it.

    Attributes:
        seed: A controller that is asked and told the same proposes the same for the same seed; resuming rests on it.
        objectives: One or more; one that is evaluated stands first.
        known_costs: The costs of genotypes ``[n, c]`` that need no evaluation, ``[n, k]``; NaN where one is needed.
        excess: By what share of a limit genotypes ``[n, c]`` are out of bounds, the worst limit counting, ``[n]``; not
            positive where all hold.
        overshoot: The same for the limits' upper ends alone; it differs where a window has a lower end too.
        feasible: A network within all limits, the fastest that is known, as one row ``[1, c]``.
        evaluations: The budget, for controllers whose number of steps is part of the method; None where only time
            counts.
        suggested: Networks that are worth a try for what is known of their weights, ``[n, c]``; None for none.
        sensitivities: Loss of the whole network with one choice alone at each of its values, by choice; None where
            there are no trained weights to measure it on.
    """

    space: SearchSpace
    seed: int
    objectives: tuple[Objective, ...]
    known_costs: Callable[[Genotypes], Floats]
    excess: Callable[[Genotypes], Floats]
    overshoot: Callable[[Genotypes], Floats]
    feasible: Genotypes
    evaluations: int | None = None
    suggested: Genotypes | None = None
    sensitivities: list[Floats] | None = None
