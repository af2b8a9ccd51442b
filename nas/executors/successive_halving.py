"""Evaluations at less than full fidelity, promoted by successive halving.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016;
several objectives are ranked by fronts and crowding, as Schmucker et al., "Multi-objective asynchronous successive
halving", 2021, arXiv 2106.12639, suggest. A batch is one bracket: all of it is evaluated a little, the best third of it
more, and the best third of that in full. What is not promoted is `State.STOPPED`.

Legend of array suffixes: n tasks, k objectives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nas.executors.base import Evaluation, Executor, Task
from nas.objectives.pareto import Costs, crowding_distance, pareto_ranks
from nas.records.trial import State

SHARE = 3
"""One in so many is promoted."""
RUNGS = (1 / SHARE**2, 1 / SHARE, 1.0)
"""Fidelities of successive halving."""
FULL = (1.0,)
FIDELITIES = {"full": FULL, "halving": RUNGS}


@dataclass(frozen=True)
class FidelityResult:
    """What became of a task in the end.

    Attributes:
        evaluation: Evaluation of its highest fidelity; its time is that of all.
        fidelity: The highest that it reached.
    """

    evaluation: Evaluation
    fidelity: float


def evaluate_rungs(
    executor: Executor, tasks: Sequence[Task], rungs: Sequence[float], known_costs_nk: Costs
) -> Iterator[tuple[int, FidelityResult]]:
    """Each task's number and what became of it, as they finish.

    Args:
        executor: Where evaluations run.
        tasks: One bracket.
        rungs: Fidelities, ascending; the last is 1.
        known_costs_nk: What is known of the tasks' networks before; the first column is what evaluations find out.
    """
    costs = {task.number: known_k for task, known_k in zip(tasks, known_costs_nk, strict=True)}
    seconds = dict.fromkeys(costs, 0.0)
    left = list(tasks)
    for fidelity in rungs:
        promotable: dict[int, Evaluation] = {}
        for number, found in executor.run([replace(task, fidelity=fidelity) for task in left]):
            seconds[number] += found.seconds
            evaluation = replace(found, seconds=seconds[number])
            if fidelity < 1 and evaluation.result is not None:
                promotable[number] = evaluation
            else:
                yield number, FidelityResult(evaluation, fidelity)
        if not promotable:
            return
        numbers = sorted(promotable)
        found_nk = np.array([costs[number] for number in numbers])
        found_nk[:, 0] = [-_objective(promotable[number]) for number in numbers]
        promoted = {numbers[place] for place in best(found_nk, math.ceil(len(numbers) / SHARE)).tolist()}
        for number in numbers:
            if number not in promoted:
                yield number, FidelityResult(replace(promotable[number], state=State.STOPPED), fidelity)
        left = [task for task in left if task.number in promoted]


def best(costs_nk: Costs, count: int) -> npt.NDArray[np.int64]:
    """The ``count`` best points: front by front, and of the front that only a part is taken of the least crowded."""
    ranks_n = pareto_ranks(costs_nk)
    crowding_n = np.zeros(len(costs_nk))
    for rank in np.unique(ranks_n).tolist():
        crowding_n[ranks_n == rank] = crowding_distance(costs_nk[ranks_n == rank])
    return np.lexsort((costs_nk[:, 0], -crowding_n, ranks_n))[:count]


def charge(fidelity: float, rungs: Sequence[float]) -> float:
    """What a network that reached ``fidelity`` counts of the budget, in full evaluations."""
    return sum(rung for rung in rungs if rung <= fidelity)


def _objective(evaluation: Evaluation) -> float:
    assert evaluation.result is not None, "only what has a result is ranked"
    return evaluation.result.objective
