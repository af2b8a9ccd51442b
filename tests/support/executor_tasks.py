"""Tasks for executors, and what came of them."""

from __future__ import annotations

import numpy as np

from nas.executors import Evaluation, Task
from nas.records.trial import State
from search_spaces import get_space
from tests.support.executor_evaluators import quality_of

SPACE = get_space("elastic-mini")


def make_tasks(count: int, seed: int = 0) -> list[Task]:
    architectures = SPACE.decode(np.unique(SPACE.sample(4 * count, np.random.default_rng(seed)), axis=0)[:count])
    assert len({quality_of(architecture, 0) for architecture in architectures}) > count // 2
    return [Task(10 + position, architecture, 3) for position, architecture in enumerate(architectures)]


def summary(evaluations: dict[int, Evaluation]) -> dict[int, tuple[State, float | None, str]]:
    return {
        number: (found.state, None if found.result is None else found.result.objective, found.reason)
        for number, found in sorted(evaluations.items())
    }
