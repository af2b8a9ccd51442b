"""Executors: the same results wherever evaluations run, and workers that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from nas.errors import EvaluationError, UsageError
from nas.evaluation.evaluators import EvaluationResult, ScoreEvaluator
from nas.executors import EvaluatorBlueprint, Executor, ExecutorError, Task, evaluate_tasks, make_executor
from nas.executors.blueprints import make_supernet_evaluator, score_blueprint, supernet_blueprint
from nas.executors.pool import Chunk, Event, Finished, PoolExecutor, WorkerGone, WorkerReady
from nas.records.trial import State
from search_spaces import Architecture, get_space
from tests.support.executor_evaluators import TroubledEvaluator, quality_of, troubled
from tests.support.executor_tasks import SPACE, make_tasks, summary
from tests.support.processes import wait_for, wait_for_end


def unique_quality(tasks: Sequence[Task]) -> Task:
    """A task that no other one shares its quality with."""
    qualities = [quality_of(task.architecture, task.seed) for task in tasks]
    return next(task for task, quality in zip(tasks, qualities, strict=True) if qualities.count(quality) == 1)


@pytest.fixture
def local() -> Iterator[list[Executor]]:
    """Executors put in here are closed at the end."""
    executors: list[Executor] = []
    yield executors
    for executor in executors:
        executor.close()


def start(executors: list[Executor], blueprint: EvaluatorBlueprint, workers: int = 2) -> Executor:
    executors.append(make_executor("local", blueprint, workers))
    return executors[-1]


# -- the shared part, on workers that live in the test ---------------------------------------------------------


class FakePool:
    """Workers of the test: each event round, every worker finishes its first chunk, the last worker first.

    Args:
        workers: How many.
        deadly: Numbers of the tasks that their worker dies of, and how often.
    """

    def __init__(self, workers: int, deadly: dict[int, int] | None = None) -> None:
        self.workers = workers
        self.deadly = dict(deadly or {})
        self.sent: list[tuple[int, ...]] = []
        self.deepest = 0
        self._queues: dict[int, list[Chunk]] = {}
        self._started = 0
        self._news: list[Event] = []
        self.is_closed = False

    def start(self) -> None:
        while len(self._queues) < self.workers:
            self._queues[self._started] = []
            self._news.append(WorkerReady(self._started))
            self._started += 1

    def send(self, worker: int, chunk: Chunk) -> None:
        self.sent.append(tuple(task.number for task in chunk.tasks))
        self._queues[worker].append(chunk)
        self.deepest = max(self.deepest, len(self._queues[worker]))

    def events(self, timeout: float) -> Sequence[Event]:
        news, self._news = self._news, []
        for worker, queue in reversed(list(self._queues.items())):
            if queue:
                news.append(self._run(worker, queue.pop(0)))
        self.start()
        return news

    def close(self) -> None:
        self.is_closed = True

    def _run(self, worker: int, chunk: Chunk) -> Event:
        for task in chunk.tasks:
            if self.deadly.get(task.number, 0):
                self.deadly[task.number] -= 1
                del self._queues[worker]
                return WorkerGone(worker, f"struck by {task.number}")
        return Finished(worker, chunk.number, list(evaluate_tasks(TroubledEvaluator(), chunk.tasks)))


@pytest.mark.parametrize("workers", [1, 2, 5, 40])
def test_every_task_is_evaluated_once_whatever_the_number_of_workers(workers: int) -> None:
    tasks, pool = make_tasks(30), FakePool(workers)
    results = list(PoolExecutor(pool).run(tasks))
    assert sorted(number for number, _ in results) == [task.number for task in tasks]
    assert summary(dict(results)) == summary(dict(evaluate_tasks(TroubledEvaluator(), tasks)))
    assert pool.deepest <= 2
    assert sorted(number for numbers in pool.sent for number in numbers) == [task.number for task in tasks]


def test_task_whose_worker_dies_twice_is_done_and_thrice_is_lost() -> None:
    tasks = make_tasks(20)
    numbers = [task.number for task in tasks]
    pool = FakePool(3, deadly={numbers[4]: 2, numbers[7]: 3})
    evaluations = dict(PoolExecutor(pool).run(tasks))
    expected = summary(dict(evaluate_tasks(TroubledEvaluator(), tasks)))
    expected[numbers[7]] = (State.LOST, None, f"its worker died 3 times, at last: struck by {numbers[7]}")
    assert summary(evaluations) == expected
    assert pool.sent.count((numbers[7],)) >= 2, "a suspect goes alone"


def test_tasks_that_waited_behind_a_deadly_one_are_never_lost_with_it() -> None:
    tasks = make_tasks(40)
    deadly = {task.number: 99 for task in tasks[10:20]}
    evaluations = dict(PoolExecutor(FakePool(2, deadly)).run(tasks))
    lost = [number for number, evaluation in evaluations.items() if evaluation.state is State.LOST]
    assert sorted(lost) == sorted(deadly)


def test_search_ends_where_no_worker_survives_anything() -> None:
    tasks = make_tasks(20)
    executor = PoolExecutor(FakePool(2, {task.number: 99 for task in tasks}))
    with pytest.raises(ExecutorError, match="no worker survives an evaluation, the last one: struck by"):
        list(executor.run(tasks))


def test_abandoned_call_leaves_nothing_to_the_next() -> None:
    executor = PoolExecutor(FakePool(2))
    first = executor.run(make_tasks(20))
    abandoned = [next(first) for _ in range(3)]
    assert len(abandoned) == 3
    first.close()
    again = make_tasks(20, seed=1)
    assert summary(dict(executor.run(again))) == summary(dict(evaluate_tasks(TroubledEvaluator(), again)))


# -- in this process ------------------------------------------------------------------------------------------------


class InBatches:
    """Judges several at once, and fails at every third."""

    name = "quality"

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, float]] = []

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        raise AssertionError("batches are preferred")

    def evaluate_batch(
        self, architectures: Sequence[Architecture], seed: int, fidelity: float = 1.0
    ) -> list[EvaluationResult | EvaluationError]:
        self.calls.append((len(architectures), seed, fidelity))
        results = [EvaluationResult(quality_of(architecture, seed), {}) for architecture in architectures]
        return [EvaluationError("no") if place % 3 == 2 else result for place, result in enumerate(results)]


def test_batch_evaluators_get_what_belongs_together_at_once() -> None:
    tasks = make_tasks(8)
    mixed = [Task(task.number, task.architecture, task.seed, 0.5 if task.number % 2 else 1.0) for task in tasks]
    evaluator = InBatches()
    evaluations = dict(evaluate_tasks(evaluator, mixed))
    assert sorted(evaluator.calls) == [(4, 3, 0.5), (4, 3, 1.0)]
    assert sorted(evaluations) == [task.number for task in tasks]
    assert [found.state for found in evaluations.values()].count(State.FAILED) == 2


def test_what_cannot_be_judged_fails_with_its_reason() -> None:
    tasks = make_tasks(4)
    doomed = unique_quality(tasks)
    blueprint = troubled(failing=quality_of(doomed.architecture, doomed.seed))
    evaluations = dict(make_executor("in-process", blueprint).run(tasks))
    assert evaluations[doomed.number].state is State.FAILED
    assert evaluations[doomed.number].reason == "EvaluationError: this one cannot be judged"
    assert sum(found.state is State.DONE for found in evaluations.values()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cluster"}, "expected one of `in-process`, `local`, `ray`"),
        ({"name": "local", "workers": 0}, "`workers` is 0"),
        ({"name": "in-process", "workers": 2}, "executor `in-process` has one"),
        ({"name": "local", "ray_address": "auto"}, "`--ray-address` is of no use"),
        ({"name": "local", "gpus_per_trial": 0.5}, "`--gpus-per-trial` is of no use"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_executor(blueprint=troubled(), **arguments)  # type: ignore[arg-type]


# -- worker processes -----------------------------------------------------------------------------------------------


def test_worker_processes_find_what_this_one_finds(tmp_path: Path, local: list[Executor]) -> None:
    tasks = make_tasks(24)
    quality = quality_of(unique_quality(tasks).architecture, 3)
    expected = summary(dict(make_executor("in-process", troubled(failing=quality)).run(tasks)))
    executor = start(local, troubled(failing=quality, notes=str(tmp_path / "notes"), meet=2))
    first = dict(executor.run(tasks))
    assert summary(first) == expected == summary(dict(executor.run(tasks)))
    processes = {found.result.scores["process"] for found in first.values() if found.result is not None}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_killed_worker_is_replaced_and_its_task_done_again(tmp_path: Path, local: list[Executor]) -> None:
    tasks = make_tasks(12)
    deadly = unique_quality(tasks)
    quality = quality_of(deadly.architecture, deadly.seed)
    executor = start(local, troubled(notes=str(tmp_path / "notes"), deadly=quality, deaths=2))
    evaluations = dict(executor.run(tasks))
    assert summary(evaluations) == summary(dict(evaluate_tasks(TroubledEvaluator(), tasks)))
    assert len(list((tmp_path / "notes").glob(f"{quality}-*"))) == 3


def test_task_that_kills_every_worker_is_lost_with_its_reason(local: list[Executor]) -> None:
    tasks = make_tasks(6)
    deadly, broken = unique_quality(tasks[:3]), unique_quality(tasks[3:])
    executor = start(
        local, troubled(deadly=quality_of(deadly.architecture, 3), broken=quality_of(broken.architecture, 3))
    )
    evaluations = dict(executor.run(tasks))
    assert evaluations[deadly.number].state is evaluations[broken.number].state is State.LOST
    assert "was killed by SIGKILL" in evaluations[deadly.number].reason
    assert evaluations[broken.number].reason == "its worker died 3 times, at last: KeyError: 'a mistake in the code'"
    assert sum(found.state is State.DONE for found in evaluations.values()) == 4


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("make_unfit", "workers cannot evaluate: RuntimeError: no images here"),
        ("make_stillborn", r"3 workers in a row ended before they were ready, the last one: process \d+ ended with"),
        (
            "make_nothing",
            "workers cannot evaluate: UsageError: evaluator factory `tests.support.executor_evaluators:make_nothing`",
        ),
    ],
)
def test_workers_that_cannot_start_end_the_search(local: list[Executor], factory: str, message: str) -> None:
    options = {"reason": "no images here"} if factory == "make_unfit" else {}
    executor = start(local, EvaluatorBlueprint(f"tests.support.executor_evaluators:{factory}", options), workers=1)
    with pytest.raises(ExecutorError, match=message):
        list(executor.run(make_tasks(4)))


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        from tests.support.executor_evaluators import troubled
        from nas.executors import make_executor
        from tests.support.executor_tasks import make_tasks
        executor = make_executor("local", troubled(notes={str(tmp_path)!r}, seconds=100.0), 2)
        print(list(executor.run(make_tasks(2))))
    """)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    workers = [int(note.name.split("-")[1]) for note in tmp_path.iterdir()]
    wait_for_end(*workers)


# -- the evaluators of this package ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained supernet for digits."""
    from supernets.checkpoint import save_checkpoint
    from supernets.data.sources import load_data
    from supernets.supernet import Supernet

    path = tmp_path_factory.mktemp("supernet") / "supernet.safetensors"
    images = load_data("digits", SPACE.image_side)
    space = get_space("elastic-mini", classes=images.classes)
    described = {"data": images.describe(), "settings": {}, "training": {}, "step": 0, "total_steps": 1, "schema": 1}
    named = {"space": space.name, "version": space.version, "classes": images.classes}
    save_checkpoint(path, Supernet(space, seed=1), {}, {**described, **named})  # type: ignore[typeddict-item]
    return path


def test_subnets_of_a_supernet_are_judged_alike_everywhere(checkpoint: Path, local: list[Executor]) -> None:
    tasks = make_tasks(3)
    blueprint = supernet_blueprint(checkpoint, "digits", seed=0, device="cpu")
    expected = summary(dict(make_executor("in-process", blueprint).run(tasks)))
    assert all(state is State.DONE for state, _, _ in expected.values())
    assert summary(dict(start(local, blueprint).run(tasks))) == expected


def test_parameters_are_shared_and_statistics_are_not(checkpoint: Path) -> None:
    from supernets.checkpoint import read_checkpoint

    contents = read_checkpoint(checkpoint)
    before = {name: tensor.clone() for name, tensor in contents.weights.items()}
    evaluator = make_supernet_evaluator(contents, "digits", 0, "cpu")
    supernet = evaluator._supernet  # type: ignore[attr-defined]
    for name, parameter in supernet.named_parameters():
        assert parameter.data_ptr() == contents.weights[name].data_ptr()
    for name, buffer in supernet.named_buffers():
        assert name not in contents.weights or buffer.data_ptr() != contents.weights[name].data_ptr()
    evaluator.evaluate(SPACE.middle, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in contents.weights.items())


@pytest.mark.parametrize("score", ["capacity", "naswot"])
def test_scores_are_the_same_from_a_recipe(score: str) -> None:
    tasks = make_tasks(2)
    directly = dict(evaluate_tasks(ScoreEvaluator(SPACE, score), tasks))
    assert summary(dict(make_executor("in-process", score_blueprint("elastic-mini", score)).run(tasks))) == summary(
        directly
    )
