"""Gaussian processes and expected hypervolume improvement under hard bounds, by Optuna's sampler.

Source: Daulton, Balandat and Bakshy, "Differentiable expected hypervolume improvement for parallel multi-objective
Bayesian optimization", NeurIPS 2020, as Optuna implements it. Fitting grows with the cube of the number of trials: this
controller is for searches of some hundred dear evaluations.
"""

from __future__ import annotations

import optuna

from nas.controllers.optuna_adapter import POPULATION, Constraints, OptunaController
from nas.objectives.problem import SearchProblem


class GPController(OptunaController):
    """Proposes what a Gaussian process per objective expects to enlarge the front most."""

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, _sampler)


def _sampler(seed: int, constraints: Constraints | None) -> optuna.samplers.BaseSampler:
    return optuna.samplers.GPSampler(
        n_startup_trials=POPULATION, deterministic_objective=True, seed=seed, constraints_func=constraints
    )
