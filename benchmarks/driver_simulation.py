"""Where one driver's limits lie: trials per second against their length, at up to 1,000 workers that are simulated.

    python benchmarks/driver_simulation.py [--controller random] [--batch-per-worker 2 8] [--message-ms 1.0]

The driver is the real one: controller, loop, dispatch, run folder and journal. Only workers and the wire are not: time
is virtual, moves on by what the driver really takes, by the given time for each message, and where the driver has
nothing to do, to the next trial that ends. Lengths of trials vary by a third. Runs in about a minute.
"""

from __future__ import annotations

import argparse
import heapq
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from latency_tables.predictor import Latencies
from nas.controllers import get_controller
from nas.evaluation.evaluators import EvaluationResult
from nas.events import ignore
from nas.executors import Evaluation, Task
from nas.executors.pool import Chunk, Event, Finished, PoolExecutor, WorkerReady
from nas.objectives.bounds import Bounds, Device
from nas.objectives.objective import Objective, latency_of
from nas.runs.run import Run
from nas.searching.loop import SearchLoop
from nas.searching.plan import Budget, Plan
from search_spaces import Genotypes, SearchSpace, get_space, population_cost

SPREAD = 0.3
"""Standard deviation of the logarithm of a trial's length."""


class MacsPredictor:
    """A millisecond per million MACs."""

    def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
        """The latencies of genotypes ``[n, c]``."""
        ms = population_cost(space, genotypes).macs / 1e6
        return Latencies(ms, ms * 0.9, ms * 1.1, "calibrated", np.zeros(len(ms), dtype=bool))


@dataclass
class Costs:
    """What simulated messages cost the driver, in seconds.

    Attributes:
        message: To send a chunk or to take its answer.
        look: To look at one call that is not finished.
    """

    message: float
    look: float


class SimulatedPool:
    """Workers in virtual time.

    Args:
        workers: How many.
        seconds: Length of a trial, in the middle.
        costs: Of messages.
    """

    def __init__(self, workers: int, seconds: float, costs: Costs) -> None:
        self._workers, self._seconds, self._costs = workers, seconds, costs
        self._free = [0.0] * workers
        self._ends: list[tuple[float, int, Chunk]] = []
        self._generator = np.random.default_rng(0)
        self._is_started = False
        self._returned = time.perf_counter()
        self.now = self.driver = self.work = 0.0

    def start(self) -> None:
        """Nothing is to be started."""

    def send(self, worker: int, chunk: Chunk) -> None:
        """Queue a chunk at a worker."""
        self._spend(self._costs.message)
        lengths = self._seconds * np.exp(SPREAD * self._generator.standard_normal(len(chunk.tasks)))
        self._free[worker] = max(self._free[worker], self.now) + float(lengths.sum())
        self.work += float(lengths.sum())
        heapq.heappush(self._ends, (self._free[worker], worker, chunk))

    def events(self, timeout: float) -> Sequence[Event]:
        """Everything that has ended by now; where nothing has, what ends next."""
        self._spend(time.perf_counter() - self._returned + self._costs.look * len(self._ends))
        found: list[Event] = []
        if not self._is_started:
            self._is_started = True
            found = [WorkerReady(worker) for worker in range(self._workers)]
        elif self._ends:
            self.now = max(self.now, self._ends[0][0])
        while self._ends and self._ends[0][0] <= self.now:
            _, worker, chunk = heapq.heappop(self._ends)
            self._spend(self._costs.message)
            found.append(Finished(worker, chunk.number, [(task.number, self._judge(task)) for task in chunk.tasks]))
        self._returned = time.perf_counter()
        return found

    def close(self) -> None:
        """Nothing was started."""

    def _judge(self, task: Task) -> Evaluation:
        quality = sum(math.sqrt(value) for name, value in task.architecture.settings if name.endswith("width"))
        return Evaluation(EvaluationResult(quality, {}), "", self._seconds)

    def _spend(self, seconds: float) -> None:
        self.now += seconds
        self.driver += seconds


def main() -> None:
    """Simulate every number of workers with every length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--controller", default="random")
    parser.add_argument("--workers", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--seconds", nargs="+", type=float, default=[0.1, 1.0, 10.0, 100.0])
    parser.add_argument("--batch-per-worker", nargs="+", type=int, default=[2, 8])
    parser.add_argument("--trials-per-worker", type=int, default=8)
    parser.add_argument("--message-ms", type=float, default=1.0, help="to send a chunk, or to take its answer")
    parser.add_argument("--look-us", type=float, default=1.0, help="to look at one unfinished call")
    arguments = parser.parse_args()
    costs = Costs(arguments.message_ms / 1e3, arguments.look_us / 1e6)
    print(f"controller {arguments.controller}, {arguments.trials_per_worker} trials per worker")
    print("workers  batch     trial    trials/s     at most   in use  driver busy")
    for workers, per_worker in product(arguments.workers, arguments.batch_per_worker):
        for seconds in arguments.seconds:
            pool, batch = SimulatedPool(workers, seconds, costs), workers * per_worker
            trials = simulate(pool, arguments.controller, batch, workers * arguments.trials_per_worker)
            rate, most = trials / pool.now, workers * trials / pool.work
            use, busy = pool.work / workers / pool.now, pool.driver / pool.now
            print(
                f"{workers:7d} {batch:6d} {seconds:7g} s {rate:11.2f} {most:11.2f} {use:8.0%} {busy:12.0%}", flush=True
            )


def simulate(pool: SimulatedPool, controller: str, batch: int, evaluations: int) -> int:
    """Run a search on the pool; returns how many networks were evaluated."""
    space = get_space("elastic")
    bounds = Bounds(space, [Device("simulated", MacsPredictor(), "a millisecond per million MACs")])
    plan = Plan((Objective("quality", is_evaluated=True), latency_of("simulated")), 0, batch)
    problem = bounds.problem(plan.objectives, 0, evaluations, bounds.check())
    with tempfile.TemporaryDirectory() as folder, Run(Path(folder) / "run", {"command": "search"}) as run:
        made = get_controller(controller)(problem)
        loop = SearchLoop(run, bounds, plan, PoolExecutor(pool), made, ignore, lambda: False)
        loop(Budget(evaluations, None))
    return loop.evaluated


if __name__ == "__main__":
    main()
