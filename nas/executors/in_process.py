"""Evaluations in this process, one batch after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nas.evaluation.evaluators import Evaluator
from nas.executors.base import Evaluation, Task, evaluate_tasks


class InProcessExecutor:
    """Runs evaluations where it is called, in order.

    Args:
        evaluator: Judges the networks.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Evaluation]]:
        """Each task's number and evaluation, in order."""
        return evaluate_tasks(self._evaluator, tasks)

    def close(self) -> None:
        """Nothing was started, nothing is ended."""
