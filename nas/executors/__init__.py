"""Executors: where evaluations run. In this process, in worker processes of this machine, or on a Ray cluster."""

from nas.executors.base import (
    Evaluation,
    EvaluatorBlueprint,
    Executor,
    ExecutorError,
    Task,
    evaluate_tasks,
)
from nas.executors.factory import EXECUTORS, make_executor

__all__ = [
    "EXECUTORS",
    "Evaluation",
    "EvaluatorBlueprint",
    "Executor",
    "ExecutorError",
    "Task",
    "evaluate_tasks",
    "make_executor",
]
