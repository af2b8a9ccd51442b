"""NSGA-II under hard bounds, with Optuna's sampler doing selection and variation.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions on Evolutionary
Computation 6, 2002, with its constrained domination: networks out of bounds rank behind all within, the nearer first.
"""

from __future__ import annotations

import optuna

from nas.controllers.optuna_adapter import POPULATION, Constraints, OptunaController
from nas.objectives.problem import SearchProblem


class NSGA2Controller(OptunaController):
    """Proposes children of the best trade-offs so far."""

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, _sampler)


def _sampler(seed: int, constraints: Constraints | None) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed, constraints_func=constraints)
