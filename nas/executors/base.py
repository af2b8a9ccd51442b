"""What an executor is: tasks in, evaluations out, in whatever order they finish.

The search tells a controller in the order of the tasks, so that results depend on seed and batch size alone, never on
how many workers there are or which of them was first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from nas.errors import EvaluationError, NasError, UsageError
from nas.evaluation.evaluators import EvaluationResult, Evaluator
from nas.records.trial import State
from search_spaces import Architecture

if TYPE_CHECKING:
    from supernets.checkpoint import Checkpoint

ExecutorName: TypeAlias = Literal["in-process", "local", "ray"]
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)
Plain: TypeAlias = str | int | float | bool | None


class ExecutorError(NasError):
    """Workers cannot be started, or none of them survives. Finished trials are in the run folder."""


@dataclass(frozen=True)
class Task:
    """One network to evaluate.

    Attributes:
        number: Of the trial; unique among the tasks of one `Executor.run`.
        seed: Handed to the evaluator.
        fidelity: Share of a full evaluation in (0, 1], for evaluators that offer less.
    """

    number: int
    architecture: Architecture
    seed: int
    fidelity: float = 1.0


@dataclass(frozen=True)
class Evaluation:
    """What became of a task.

    Attributes:
        result: None unless it is ``done``.
        reason: Why it is not ``done``; empty otherwise.
        seconds: Time that the evaluation took where it ran; its share where several ran together.
        state: `State.DONE`, `State.FAILED`, or `State.LOST` where its worker died each time that it was tried.
    """

    result: EvaluationResult | None
    reason: str = ""
    seconds: float = 0.0
    state: State = State.DONE


class Executor(Protocol):
    """Runs evaluations. It may be asked again and again; `close` ends what it started."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Evaluation]]:
        """Each task's number and evaluation, once, as they finish.

        Whoever stops asking before the end abandons the rest; the next call starts clean.

        Raises:
            ExecutorError: Workers cannot be started, or none survives.
        """
        ...

    def close(self) -> None:
        """End all workers. An executor that is closed runs nothing more; closing it again does nothing."""
        ...


@runtime_checkable
class BatchEvaluator(Evaluator, Protocol):
    """An evaluator that judges several networks in one pass over its data, and at less than full fidelity."""

    def evaluate_batch(
        self, architectures: Sequence[Architecture], seed: int, fidelity: float = 1.0
    ) -> Iterable[EvaluationResult | EvaluationError]:
        """One result per network as they are ready, or why it has none; the same as one by one, to the last bit."""
        ...


@dataclass(frozen=True)
class EvaluatorBlueprint:
    """What a worker process needs to build the evaluator anew: plain data, no live object.

    Attributes:
        factory: A function as ``package.module:function``; `nas.executors.blueprints` has those of this package. It is
            called with the options, and where there is a checkpoint with ``checkpoint=`` as well: a
            `supernets.checkpoint.Checkpoint` whose tensors may be shared between processes and are not to be written.
        options: Keyword arguments, plain values only.
        checkpoint: Path of the supernet's checkpoint; None for evaluators without weights.
    """

    factory: str
    options: Mapping[str, Plain] = field(default_factory=dict)
    checkpoint: str | None = None

    def build(self, checkpoint: Checkpoint | None = None) -> Evaluator:
        """The evaluator.

        Args:
            checkpoint: The contents of the file named in the blueprint, where they have been brought here already.

        Raises:
            UsageError: There is no such function.
        """
        module_name, _, name = self.factory.partition(":")
        try:
            factory = getattr(import_module(module_name), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(
                f"evaluator factory `{self.factory}`: {error}", hint="write `package.module:function`"
            ) from error
        if self.checkpoint is None:
            evaluator: Evaluator = factory(**self.options)
            return evaluator
        if checkpoint is None:
            from pathlib import Path

            from supernets.checkpoint import read_checkpoint

            checkpoint = read_checkpoint(Path(self.checkpoint))
        evaluator = factory(checkpoint=checkpoint, **self.options)
        return evaluator


def evaluate_tasks(evaluator: Evaluator, tasks: Sequence[Task]) -> Iterator[tuple[int, Evaluation]]:
    """Evaluate tasks here and now, in order; in one pass over the data where the evaluator can.

    A network that cannot be evaluated, or gives no finite number, is `State.FAILED`; other errors are raised.
    """
    if isinstance(evaluator, BatchEvaluator):
        groups: dict[tuple[int, float], list[Task]] = {}
        for task in tasks:
            groups.setdefault((task.seed, task.fidelity), []).append(task)
        for (seed, fidelity), group in groups.items():
            results = iter(evaluator.evaluate_batch([task.architecture for task in group], seed, fidelity))
            for task in group:
                started = time.perf_counter()
                result = next(results)
                yield task.number, _judged(evaluator.name, result, time.perf_counter() - started)
        return
    for task in tasks:
        started = time.perf_counter()
        outcome: EvaluationResult | Exception
        try:
            outcome = evaluator.evaluate(task.architecture, task.seed)
        except (EvaluationError, ArithmeticError) as error:
            outcome = error
        yield task.number, _judged(evaluator.name, outcome, time.perf_counter() - started)


def make_executor(
    name: ExecutorName,
    blueprint: EvaluatorBlueprint,
    workers: int | None = None,
    ray_address: str | None = None,
    gpus_per_trial: float = 0.0,
) -> Executor:
    """The executor of that name; workers are started with its first tasks.

    Args:
        name: One of `EXECUTORS`.
        blueprint: What workers build their evaluator from.
        workers: Processes that evaluate at the same time; None for one per processor of this machine, or for as many
            as the cluster has room for.
        ray_address: Cluster to join, for example ``auto`` or ``ray://head:10001``; a cluster of this machine alone
            unless given.
        gpus_per_trial: Share of a GPU that each worker gets, for Ray alone.

    Raises:
        UsageError: A value is out of range, or is of no use to this executor.
    """
    if name not in EXECUTORS:
        raise UsageError(f"executor is `{name}`, expected one of {', '.join(f'`{known}`' for known in EXECUTORS)}")
    if workers is not None and workers < 1:
        raise UsageError(f"`workers` is {workers}, expected 1 or more")
    if name != "ray" and (ray_address is not None or gpus_per_trial):
        option = "--ray-address" if ray_address is not None else "--gpus-per-trial"
        raise UsageError(f"`{option}` is of no use to executor `{name}`", hint="add `--executor ray`, or leave it out")
    if name == "in-process":
        from nas.executors.in_process import InProcessExecutor

        if workers not in (None, 1):
            raise UsageError(
                f"`workers` is {workers}, but executor `in-process` has one", hint="name executor `local` or `ray`"
            )
        return InProcessExecutor(blueprint.build())
    from nas.executors.pool import PoolExecutor

    if name == "local":
        from nas.executors.local import LocalPool

        return PoolExecutor(LocalPool(blueprint, workers))
    from nas.executors.ray import RayPool

    return PoolExecutor(RayPool(blueprint, workers, ray_address, gpus_per_trial))


def _judged(objective: str, outcome: EvaluationResult | Exception, seconds: float) -> Evaluation:
    if isinstance(outcome, Exception):
        return Evaluation(None, f"{type(outcome).__name__}: {outcome}", seconds, State.FAILED)
    if not math.isfinite(outcome.objective):
        reason = f"{objective} is {outcome.objective}, expected a finite number"
        return Evaluation(None, reason, seconds, State.FAILED)
    return Evaluation(outcome, "", seconds)
