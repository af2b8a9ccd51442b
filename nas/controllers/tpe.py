"""Tree-structured Parzen estimators for several objectives under hard bounds, by Optuna's sampler.

Sources: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011; Ozaki et al., "Multiobjective
tree-structured Parzen estimator", Journal of Artificial Intelligence Research 73, 2022; constraints after Watanabe and
Hutter, "c-TPE: tree-structured Parzen estimator with inequality constraints for expensive hyperparameter
optimization", IJCAI 2023. Choices are drawn together: one by one, the sampler's default, they lead to the same few
networks again and again.
"""

from __future__ import annotations

import optuna

from nas.controllers.optuna_adapter import POPULATION, Constraints, OptunaController
from nas.objectives.problem import SearchProblem


class TPEController(OptunaController):
    """Proposes networks that look more like the good ones so far than like the others."""

    def __init__(self, problem: SearchProblem) -> None:
        super().__init__(problem, _sampler)


def _sampler(seed: int, constraints: Constraints | None) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        n_startup_trials=POPULATION, multivariate=True, seed=seed, constraints_func=constraints
    )
