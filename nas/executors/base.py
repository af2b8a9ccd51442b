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
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from nas.errors import EvaluationError, NasError, UsageError
from nas.evaluation.evaluators import EvaluationResult, Evaluator
from nas.records.trial import State
from search_spaces import Architecture

if TYPE_CHECKING:
    from supernets.checkpoint import Checkpoint

Plain: TypeAlias = str | int | float | bool | None


class ExecutorError(NasError):
    """Workers cannot be started, or none of them survives. Finished trials are in the run folder."""


@dataclass(frozen=True)
class Task:
    """One network to evaluate.

    Attributes:
        number: Number of the trial; unique among the tasks of one `Executor.run`.
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


def _judged(objective: str, outcome: EvaluationResult | Exception, seconds: float) -> Evaluation:
    if isinstance(outcome, Exception):
        return Evaluation(None, f"{type(outcome).__name__}: {outcome}", seconds, State.FAILED)
    if not math.isfinite(outcome.objective):
        reason = f"{objective} is {outcome.objective}, expected a finite number"
        return Evaluation(None, reason, seconds, State.FAILED)
    return Evaluation(outcome, "", seconds)
