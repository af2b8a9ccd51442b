"""What an executor costs per trial, and what a second worker gains on evaluations that keep a processor busy.

    python benchmarks/executors.py [--executors in-process local ray] [--trials 200] [--milliseconds 100]

An evaluation is a fixed amount of hashing, the same on every worker. Workers are started before the clock. Prints, for
each executor, milliseconds per trial beyond the evaluation itself with one worker (evaluations that do nothing, and the
fixed amount), and the seconds with one worker over those with two. For Ray, also the time to look at 2,000 calls.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import closing

import numpy as np

from nas.evaluation.evaluators import EvaluationResult
from nas.executors import EvaluatorBlueprint, Task, make_executor
from search_spaces import Architecture, get_space

BLOCK = bytes(1 << 14)
ROUNDS = 3


class BusyEvaluator:
    """Hashes a block over and over.

    Args:
        hashes: How often.
    """

    name = "digest"

    def __init__(self, hashes: int) -> None:
        self._hashes = hashes

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """A number that depends on the whole work."""
        digest = hashlib.sha256(repr(architecture.settings).encode())
        for _ in range(self._hashes):
            digest.update(BLOCK)
        return EvaluationResult(float(digest.digest()[0]), {})


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executors", nargs="+", default=["in-process", "local", "ray"])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--milliseconds", type=float, default=100.0, help="work of an evaluation on this machine")
    arguments = parser.parse_args()
    tasks = make_tasks(arguments.trials)
    hashes = max(1, round(arguments.milliseconds / 1e3 / seconds_per_hash()))
    alone = seconds_of_work(hashes)
    print(f"{arguments.trials} trials of {alone * 1e3:.1f} ms on one of {os.cpu_count()} processors, best of {ROUNDS}")
    print(f"{'executor':12s} {'nothing to do':>16s} {'with work':>16s} {'two workers':>16s}")
    for name in arguments.executors:
        idle = run_seconds(name, 0, 1, tasks) / len(tasks)
        one = run_seconds(name, hashes, 1, tasks)
        overhead = one / len(tasks) - alone
        gain = "" if name == "in-process" else f"{one / run_seconds(name, hashes, 2, tasks):14.2f} x"
        print(f"{name:12s} {idle * 1e3:13.2f} ms {overhead * 1e3:13.2f} ms {gain:>16s}")
    if "ray" in arguments.executors:
        print(f"ray.wait on 2,000 calls: {wait_seconds(2000) * 1e3:.1f} ms")


def make_tasks(count: int) -> list[Task]:
    """Random networks."""
    space = get_space("elastic-mini")
    architectures = space.decode(space.sample(count, np.random.default_rng(0)))
    return [Task(number, architecture, 0) for number, architecture in enumerate(architectures)]


def seconds_per_hash() -> float:
    """Of one block, on this machine."""
    started = time.perf_counter()
    digest = hashlib.sha256()
    for _ in range(2000):
        digest.update(BLOCK)
    return (time.perf_counter() - started) / 2000


def seconds_of_work(hashes: int) -> float:
    """Of one evaluation, here, without any executor."""
    evaluator, times = BusyEvaluator(hashes), []
    architecture = get_space("elastic-mini").smallest
    for _ in range(20):
        started = time.perf_counter()
        evaluator.evaluate(architecture, 0)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def run_seconds(name: str, hashes: int, workers: int, tasks: Sequence[Task]) -> float:
    """Of the tasks on workers that are there already, the best of some rounds."""
    blueprint = EvaluatorBlueprint("executors:BusyEvaluator", {"hashes": hashes})
    many = None if name == "in-process" else workers
    with closing(make_executor(name, blueprint, many)) as executor:  # type: ignore[arg-type]
        seconds = []
        for _ in range(ROUNDS + 1):
            started = time.perf_counter()
            finished = sum(1 for _ in executor.run(tasks))
            seconds.append(time.perf_counter() - started)
            assert finished == len(tasks)
    return min(seconds[1:])


def wait_seconds(count: int) -> float:
    """Of one look at so many unfinished calls of a Ray actor, as the driver does with 1,000 workers."""
    import ray

    @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
    class Sleeper:
        def sleep(self, seconds: float) -> None:
            time.sleep(seconds)

    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    sleeper = Sleeper.remote()
    calls = [sleeper.sleep.remote(60.0) for _ in range(count)]
    times = []
    for _ in range(20):
        started = time.perf_counter()
        ray.wait(calls, num_returns=count, timeout=0)
        times.append(time.perf_counter() - started)
    ray.kill(sleeper)
    ray.shutdown()
    return statistics.median(times)


if __name__ == "__main__":
    main()
