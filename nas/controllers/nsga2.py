"""NSGA-II under a hard latency bound, with Optuna's sampler doing selection and variation.

Source: Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002, with its constrained
domination: networks over the bound rank behind all within it, the nearer ones first.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import optuna

from nas.controllers.base import Outcome, SearchProblem
from nas.controllers.proposals import first_population, fresh_proposal
from nas.optuna_quiet import quiet_optuna
from nas.trial import State
from search_spaces import Genotypes, SearchSpace

POPULATION = 20
PATIENCE = 16
"""So many proposals in a row without a result to learn from, and the next one is made within the bound."""
EXCESS = "excess_ms"


class NSGA2Controller:
    """Proposes children of the best trade-offs between objective and latency so far.

    Repetitions and failures leave no trace in the population. A child that the space's rules change is judged by what
    it was changed to.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._distributions = choice_distributions(problem.space)
        self._has_set_constraint = hasattr(optuna.Trial, "set_constraint")
        with quiet_optuna():
            self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=self._sampler())
        self._queue: list[Genotypes] = list(first_population(problem, POPULATION, self._generator))
        self._tables = [choice.values for choice in problem.space.choices]
        self._seen: set[bytes] = set()
        self._done: list[Genotypes] = []
        self._fruitless = 0
        self._trial: optuna.Trial | None = None

    def ask(self) -> Genotypes | None:
        """The next genotype ``[c]``; None when nothing new within the bound turns up."""
        planned = self._queue.pop(0) if self._queue else None
        if planned is None and self._fruitless >= PATIENCE:
            parents = np.array(self._done, dtype=np.int8)
            planned = fresh_proposal(self._problem, self._seen, parents, self._generator)
            if planned is None:
                return None
        if planned is not None:
            choices = zip(self._distributions, self._tables, planned.tolist(), strict=True)
            self._study.enqueue_trial({name: values[index] for name, values, index in choices})
        self._trial = self._study.ask(self._distributions)
        parameters = self._trial.params
        row = [values.index(parameters[name]) for name, values in zip(self._distributions, self._tables, strict=True)]
        genotype: Genotypes = self._problem.space.repair(np.array([row], dtype=np.int8))[0]
        return genotype

    def tell(self, genotype: Genotypes, outcome: Outcome) -> None:
        """Give the result of the last proposal to the sampler."""
        assert self._trial is not None, "`tell` follows `ask`"
        is_useful = outcome.state is not State.FAILED and not outcome.is_repeated
        self._fruitless = 0 if is_useful and outcome.state is State.DONE else self._fruitless + 1
        self._seen.add(genotype.tobytes())
        if not is_useful:
            self._study.tell(self._trial, state=optuna.trial.TrialState.FAIL)
            return
        if outcome.state is State.DONE:
            self._done.append(genotype)
        excess = max(outcome.excess_ms, -1.0)  # without a limit it is minus infinity, which has no place in a study
        if self._has_set_constraint:
            self._trial.set_constraint(EXCESS, excess)
        else:
            self._trial.set_user_attr(EXCESS, excess)
        objective = outcome.objective if outcome.state is State.DONE else 0.0  # not looked at over the bound
        self._study.tell(self._trial, [objective, outcome.latency_ms])

    def _sampler(self) -> optuna.samplers.BaseSampler:
        if self._has_set_constraint:
            return optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=self._problem.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.NSGAIISampler(
                population_size=POPULATION, seed=self._problem.seed, constraints_func=_constraints
            )


def choice_distributions(space: SearchSpace) -> dict[str, optuna.distributions.BaseDistribution]:
    """One categorical distribution per choice, over its values."""
    return {choice.name: optuna.distributions.CategoricalDistribution(choice.values) for choice in space.choices}


def _constraints(trial: optuna.trial.FrozenTrial) -> Sequence[float]:
    return (float(trial.user_attrs[EXCESS]),)
