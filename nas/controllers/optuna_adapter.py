"""Optuna's samplers as controllers: what they have in common.

A sampler proposes parameters and is told values and by how much limits are exceeded, through Optuna's own constraints;
bounds, the space's rules and repetitions are looked after here. A child that the space's rules change is judged by what
it was changed to. Repetitions and failures leave no trace in the sampler. A sampler that has proposed nothing useful
for a while is overruled by a new network within the bounds, so that a search goes on and ends.

Samplers and storage are called directly. `Study.ask` and `Study.tell` do the same and more: they work out what all
trials have in common, look up each parameter by itself, and copy every trial, which costs most of a proposal's time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from nas.controllers.base import Outcome, Outcomes
from nas.controllers.optuna_quiet import quiet_optuna
from nas.controllers.proposals import first_population, fresh_proposal
from nas.controllers.threads import on_one_thread
from nas.objectives.objective import Objective
from nas.objectives.problem import SearchProblem
from nas.records.trial import State
from search_spaces import Genotypes, SearchSpace

POPULATION = 20
"""Networks within the bounds that every search begins with; also the population of the evolutionary samplers."""
PATIENCE = 16
"""So many proposals in a row without a result to learn from, and the next one is made within the bounds."""
EXCESS = "excess"

Constraints = Callable[[optuna.trial.FrozenTrial], Sequence[float]]
MakeSampler = Callable[[int, Constraints | None], optuna.samplers.BaseSampler]
"""Of a seed, and of the constraints where this version of Optuna takes them as a function."""


class OptunaController:
    """Proposes what a sampler of Optuna suggests.

    Args:
        problem: What is searched.
        make_sampler: Makes the sampler.
    """

    def __init__(self, problem: SearchProblem, make_sampler: MakeSampler) -> None:
        self._problem = problem
        self._generator = np.random.default_rng(problem.seed)
        self._distributions = choice_distributions(problem.space)
        self._searched: dict[str, BaseDistribution] = {
            name: one for name, one in sorted(self._distributions.items()) if not one.single()
        }
        self._has_set_constraint = hasattr(optuna.Trial, "set_constraint")
        self._storage = optuna.storages.InMemoryStorage()
        with quiet_optuna(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._sampler = make_sampler(problem.seed, None if self._has_set_constraint else _constraints)
            directions = study_directions(problem.objectives)
            self._study = optuna.create_study(storage=self._storage, directions=directions, sampler=self._sampler)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._queue: list[Genotypes] = list(first_population(problem, POPULATION, self._generator))
        self._seen: set[bytes] = set()
        self._done: list[Genotypes] = []
        self._fruitless = 0
        self._asked: list[optuna.Trial] = []

    def ask(self, count: int) -> Genotypes:
        """The next genotypes ``[n, c]``; none when nothing new within the bounds turns up.

        Those of the first population are asked before any of the sampler's own.
        """
        rows: list[Genotypes] = []
        asked: set[bytes] = set()
        self._asked = []
        is_first_population = bool(self._queue)
        with quiet_optuna(), on_one_thread():
            while len(rows) < count and bool(self._queue) == is_first_population:
                trial, genotype = self._next(asked)
                if trial is None or genotype is None:
                    break
                if genotype.tobytes() in asked:
                    self._finish(trial, TrialState.FAIL)
                    self._fruitless += 1
                    continue
                asked.add(genotype.tobytes())
                self._asked.append(trial)
                rows.append(genotype)
        return np.array(rows, dtype=np.int8).reshape(-1, len(self._distributions))

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Give the results of the last proposals to the sampler."""
        with quiet_optuna():
            for trial, genotype, outcome in zip(self._asked, genotypes, outcomes, strict=False):
                self._tell(trial, genotype, outcome)

    def _next(self, asked: set[bytes]) -> tuple[optuna.Trial | None, Genotypes | None]:
        planned = self._queue.pop(0) if self._queue else None
        if planned is None and self._fruitless >= PATIENCE:
            parents = np.array(self._done, dtype=np.int8)
            planned = fresh_proposal(self._problem, self._seen | asked, parents, self._generator)
            if planned is None:
                return None, None
        trial = self._study.ask()
        number = self._id_of(trial)
        frozen = self._storage.get_trial(number)
        row = self._suggested(frozen) if planned is None else planned.tolist()
        for (name, distribution), index in zip(self._distributions.items(), row, strict=True):
            self._storage.set_trial_param(number, name, float(index), distribution)
        genotype: Genotypes = self._problem.space.repair(np.array([row], dtype=np.int8))[0]
        return trial, genotype

    def _suggested(self, trial: optuna.trial.FrozenTrial) -> list[int]:
        """The indices of what the sampler suggests, choice by choice where it does not suggest them together."""
        sampled = self._sampler.sample_relative(self._study, trial, self._searched)
        row = []
        for name, distribution in self._distributions.items():
            if name in sampled:
                value = sampled[name]
            elif distribution.single():
                value = distribution.choices[0]
            else:
                value = self._sampler.sample_independent(self._study, trial, name, distribution)
            row.append(distribution.choices.index(value))
        return row

    def _tell(self, trial: optuna.Trial, genotype: Genotypes, outcome: Outcome) -> None:
        is_useful = outcome.state in (State.DONE, State.INFEASIBLE) and not outcome.is_repeated
        self._fruitless = 0 if is_useful and outcome.state is State.DONE else self._fruitless + 1
        self._seen.add(genotype.tobytes())
        if not is_useful:
            self._finish(trial, TrialState.FAIL)
            return
        if outcome.state is State.DONE:
            self._done.append(genotype)
        excess = max(outcome.excess, -1.0)  # without a limit it is minus infinity, which has no place in a study
        if self._has_set_constraint:
            trial.set_constraint(EXCESS, excess)
        else:
            trial.set_user_attr(EXCESS, excess)
        costs = np.nan_to_num(outcome.costs).tolist()  # what was not evaluated is out of bounds, and not looked at
        values = [o.value(cost) for o, cost in zip(self._problem.objectives, costs, strict=True)]
        self._finish(trial, TrialState.COMPLETE, values)

    def _finish(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        number = self._id_of(trial)
        self._sampler.after_trial(self._study, self._storage.get_trial(number), state, values)
        self._storage.set_trial_state_values(number, state, values)

    def _id_of(self, trial: optuna.Trial) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)


def choice_distributions(space: SearchSpace) -> dict[str, CategoricalDistribution]:
    """One categorical distribution per choice, over its values."""
    return {choice.name: CategoricalDistribution(choice.values) for choice in space.choices}


def study_directions(objectives: Sequence[Objective]) -> list[optuna.study.StudyDirection]:
    """What Optuna calls the goals of objectives."""
    directions = optuna.study.StudyDirection
    return [directions.MAXIMIZE if objective.is_maximised else directions.MINIMIZE for objective in objectives]


def _constraints(trial: optuna.trial.FrozenTrial) -> Sequence[float]:
    return (float(trial.user_attrs[EXCESS]),)
