"""Where the networks of a search are evaluated: what may differ from session to session, and changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from nas.evaluation.evaluators import AsvitEvaluator, Evaluator
from nas.executors.base import EvaluatorBlueprint, Executor, ExecutorName, make_executor
from nas.executors.in_process import InProcessExecutor
from nas.scores.registry import get_score
from nas.searching.settings import SearchSettings

BATCH_PER_WORKER = 2


@dataclass(frozen=True)
class Workplace:
    """Machines and processes.

    Attributes:
        device: Where networks run in this process, for example ``cuda``; the first GPU, else the CPU, where None.
        workers: Processes that evaluate at the same time.
        executor: Name of the executor; None for the one that follows from the number of workers.
        ray_address: Cluster to join, see `nas.executors.make_executor`; ``gpus_per_trial`` likewise.
    """

    device: str | None = None
    workers: int = 1
    executor: ExecutorName | None = None
    ray_address: str | None = None
    gpus_per_trial: float = 0.0

    def executor_name(self, settings: SearchSettings) -> ExecutorName:
        """The executor that is asked for, or else local workers for evaluations that are worth them."""
        if self.executor is not None or self.ray_address is not None or self.gpus_per_trial:
            return self.executor or "ray"
        return "local" if self.workers > 1 and is_shared_out(settings.score, settings.evaluates) else "in-process"

    def default_batch(self, settings: SearchSettings) -> int:
        """Networks that keep the workers busy when they are asked for at once; 1 where there is one place alone."""
        return 1 if self.executor_name(settings) == "in-process" else BATCH_PER_WORKER * self.workers

    @contextmanager
    def open_executor(
        self, settings: SearchSettings, evaluator: Evaluator | None, blueprint: Callable[[], EvaluatorBlueprint]
    ) -> Iterator[Executor | None]:
        """The executor, closed in the end; None where there is nothing to evaluate.

        Args:
            settings: Of the search.
            evaluator: Judges networks in this process.
            blueprint: What workers build theirs from; asked for only where there are any.

        Raises:
            UsageError: Options make no sense together.
        """
        if evaluator is None:
            yield None
            return
        name = self.executor_name(settings)
        executor: Executor = InProcessExecutor(evaluator)
        if name != "in-process":
            executor = make_executor(name, blueprint(), self.workers, self.ray_address, self.gpus_per_trial)
        try:
            yield executor
        finally:
            executor.close()


def is_shared_out(score: str | None, evaluates: bool) -> bool:
    """Whether networks are worth bringing to workers: not where a score comes from a table, or shares itself out."""
    if score is None:
        return evaluates
    return score != AsvitEvaluator.score and not get_score(score).is_free
