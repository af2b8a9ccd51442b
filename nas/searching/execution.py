"""Where the networks of a search are evaluated: what may differ from session to session, and changes no result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from nas.evaluation.compensation import Compensation
from nas.evaluation.evaluators import AsvitEvaluator, Evaluator
from nas.executors.base import EvaluatorBlueprint, Executor
from nas.executors.factory import ExecutorName, make_executor
from nas.executors.in_process import InProcessExecutor
from nas.runs.folder import RunFolder
from nas.scores.registry import get_score
from nas.searching.settings import SearchSettings

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData

BATCH_PER_WORKER = 2


def executor_name(settings: SearchSettings) -> ExecutorName:
    """The executor that is asked for, or else local workers for evaluations that are worth them."""
    if settings.executor is not None or settings.ray_address is not None or settings.gpus_per_trial:
        return cast("ExecutorName", settings.executor or "ray")
    is_worth_it = settings.accuracies is None and is_shared_out(settings.score, settings.evaluates)
    return "local" if settings.workers > 1 and is_worth_it else "in-process"


def default_batch(settings: SearchSettings) -> int:
    """Networks that keep the workers busy when they are asked for at once; 1 where there is one place alone."""
    return 1 if executor_name(settings) == "in-process" else BATCH_PER_WORKER * settings.workers


@contextmanager
def open_executor(
    settings: SearchSettings, evaluator: Evaluator | None, blueprint: Callable[[], EvaluatorBlueprint]
) -> Iterator[Executor | None]:
    """The executor, closed in the end; None where there is nothing to evaluate.

    Args:
        settings: Settings of the search.
        evaluator: Judge of networks in this process.
        blueprint: What workers build their evaluator from; asked for only where there are any.

    Raises:
        UsageError: Options make no sense together.
    """
    if evaluator is None:
        yield None
        return
    name = executor_name(settings)
    executor: Executor = InProcessExecutor(evaluator)
    if name != "in-process":
        executor = make_executor(name, blueprint(), settings.workers, settings.ray_address, settings.gpus_per_trial)
    try:
        yield executor
    finally:
        executor.close()


def is_shared_out(score: str | None, evaluates: bool) -> bool:
    """Whether networks are worth bringing to workers: not where a score comes from a table, or shares itself out."""
    if score is None:
        return evaluates
    return score != AsvitEvaluator.score and not get_score(score).is_free


def blueprint_of(settings: SearchSettings, folder: Path, images: ImageData | None) -> EvaluatorBlueprint:
    """What workers build their evaluators from.

    Args:
        settings: Settings of the search.
        folder: Its run folder.
        images: Images that networks are judged on; None for untrained networks.
    """
    from nas.executors.blueprints import score_blueprint, supernet_blueprint

    if settings.score is not None:
        return score_blueprint(settings.space, settings.score)
    assert images is not None, "a run without a score has images"
    checkpoint, asked = RunFolder(folder).checkpoint, Compensation.of(settings.recorded())
    assert checkpoint is not None, "networks that are judged on images have weights"
    return supernet_blueprint(
        checkpoint,
        images.source,
        settings.seed,
        settings.device,
        asked,
        settings.judged_by,
        settings.precision,
    )
