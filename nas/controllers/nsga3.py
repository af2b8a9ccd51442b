"""NSGA-III under hard bounds, with Optuna's sampler doing selection and variation.

Source: Deb and Jain, "An evolutionary many-objective optimization algorithm using reference-point-based nondominated
sorting approach", IEEE Transactions on Evolutionary Computation 18, 2014. Made for more than two objectives, where
nearly all networks are trade-offs and reference directions, not crowding, keep the population spread.
"""

from __future__ import annotations

import optuna

from nas.controllers.optuna_adapter import POPULATION, Constraints, OptunaController
from nas.objectives.problem import SearchProblem


class NSGA3Controller(OptunaController):
    """Proposes children of trade-offs that lie near directions spread over the objectives."""

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, _sampler)


def _sampler(seed: int, constraints: Constraints | None) -> optuna.samplers.BaseSampler:
    return optuna.samplers.NSGAIIISampler(population_size=POPULATION, seed=seed, constraints_func=constraints)
