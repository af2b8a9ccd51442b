"""Evaluations that each controller needs to reach what random search has found after many more.

Searches maximise quality and minimise latency on ``pixel6`` in one of two worlds that answer at once:

- ``--trained FILE``: transformers that others have trained, see `trained_vits`. Controllers search the pool of each set
  (plain ViTs only), a genotype standing for the nearest network of the pool.
- ``--table FILE``: the whole of a search space. Quality is a boosted-tree regression on networks of a supernet that
  were evaluated, plus noise of the size of its held-out error, the same whenever a network is asked for (after J.
  Siems et al., "NAS-Bench-301 and the case for surrogate benchmarks", arXiv 2008.09777). ``--evaluate RUN`` makes the
  table from the supernet of a run.

Hypervolume is counted from the slowest network and the worst tenth of a random sample. ``reaches`` is the mean over
seeds, with a 95 % bootstrap interval, of the evaluations needed for random search's mean hypervolume after a number of
evaluations; a seed that does not get there counts its whole budget and is told apart as ``missed``. The row
``informed`` is no controller but what one could reach at best: it knows the regression and the size of the noise, not
the noise itself.

``--proposals`` measures what proposing costs once 1,000 networks of `elastic` have been evaluated.

    python benchmarks/controllers.py --trained TRUTH.json [--set NAME ...] [--seeds 10] [--first-seed 0] [--json FILE]
    python benchmarks/controllers.py --evaluate RUN --networks 2000 --table TABLE.csv
    python benchmarks/controllers.py --table TABLE.csv [--space elastic-mini]
    python benchmarks/controllers.py --proposals
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from controller_worlds import SAMPLE, TARGET, World, worlds, write_table

from nas.controllers import Controller, Outcome, Outcomes, SearchProblem, get_controller
from nas.controllers.improvement import Front
from nas.controllers.proposals import distinct
from nas.objectives.objective import Objective, latency_of
from nas.objectives.pareto import hypervolume
from nas.records.trial import State
from nas.scores.rank_statistics import mean_interval
from nas.testing import drive, toy_problem
from search_spaces import Genotypes

Floats = npt.NDArray[np.float64]

MARKS = (25, 50, 100, 150, 200, 300)
CONTROLLERS = ("nsga2", "nsga3", "tpe", "gp", "evolution", "evolution-resnas", "local", "predictor")
SLOW = {"gp": 50}
"""Controllers whose proposals take seconds, with the evaluations that they get."""
INFORMED, INFORMED_SAMPLE = "informed", 20_000
FINISHED, PROPOSALS = 1000, 150
"""Networks evaluated before proposals are timed, and how many proposals are."""


def main() -> None:
    """Run the benchmark and print a table for each world."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trained", type=Path, help="JSON file of trained networks")
    parser.add_argument(
        "--set", nargs="+", metavar="NAME", help="sets and tasks of --trained, such as `pit flowers_kd`"
    )
    parser.add_argument("--table", type=Path, help="CSV file of evaluated networks")
    parser.add_argument("--evaluate", type=Path, metavar="RUN", help="evaluate networks of its supernet into --table")
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--space", default="elastic-mini", help="of the table")
    parser.add_argument("--controllers", nargs="+", default=CONTROLLERS, help="beside random")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--proposals", action="store_true", help="measure what proposing costs")
    parser.add_argument("--json", type=Path, help="also write all hypervolumes here")
    arguments = parser.parse_args()
    if arguments.evaluate is not None:
        if arguments.table is None:
            parser.error("--evaluate needs --table")
        write_table(arguments.evaluate, arguments.table, arguments.networks)
        return
    if arguments.proposals:
        for name in arguments.controllers:
            print(f"{name:18}{1e3 * proposal_seconds(name):10.2f} ms per proposal", flush=True)
    document = {}
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for world in worlds(arguments.trained, arguments.table, arguments.space):
        if arguments.set is None or world.name in arguments.set:
            document[world.name] = compare(world, arguments.controllers, seeds)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document))


def compare(world: World, controllers: list[str], seeds: range) -> dict[str, list[list[float]]]:
    """The hypervolumes of each controller after each evaluation, for each seed; prints what they amount to."""
    targets = (200, 1000) if world.size is None else (world.size // 5, 4 * world.size // 5)
    most = min(MARKS[-1], world.size or MARKS[-1])
    informed = () if world.expected is None else (INFORMED,)
    budgets = {"random": targets[1]} | {name: min(SLOW.get(name, most), most) for name in (*controllers, *informed)}
    marks = [mark for mark in MARKS if mark <= most]
    print(f"\n{world.name}: hypervolume as a share of random search's after {targets[1]}, mean over {len(seeds)} seeds")
    columns = "".join(f"{f'@{mark}':>8}" for mark in marks) + "".join(f"{f'reaches random@{n}':>32}" for n in targets)
    print(f"{'controller':18}{columns}{'ms/proposal':>14}")
    curves: dict[str, list[list[float]]] = {}
    for name, budget in budgets.items():
        runs = [search(world, name, seed, budget) for seed in seeds]
        curves[name] = [curve for curve, _ in runs]
        goals = [float(np.mean([at(curve, count) for curve in curves["random"]])) for count in targets]
        shares = [np.mean([at(curve, mark) for curve in curves[name]]) / goals[1] for mark in marks]
        cells = "".join(f"{share:8.3f}" for share in shares)
        reached = "".join(f"{needed(curves[name], goal):>32}" for goal in goals)
        seconds = float(np.mean([spent for _, spent in runs])) / budget
        print(f"{name:18}{cells}{reached}{1e3 * seconds:14.1f}", flush=True)
    return curves


def search(world: World, name: str, seed: int, evaluations: int) -> tuple[list[float], float]:
    """The hypervolume after each evaluation, and the processor time that the controller took."""
    slowest = world.corner[1]

    def known_costs(genotypes: Genotypes) -> Floats:
        return np.stack([np.full(len(genotypes), np.nan), world.latency_ms(genotypes)], axis=1)

    def excess(genotypes: Genotypes) -> Floats:
        return (world.latency_ms(genotypes) - slowest) / slowest

    problem = SearchProblem(
        world.space,
        seed,
        objectives=(Objective("quality", is_evaluated=True), latency_of(TARGET)),
        known_costs=known_costs,
        excess=excess,
        overshoot=excess,
        feasible=world.space.encode([world.space.smallest]),
        evaluations=evaluations,
    )
    spent = -time.thread_time()
    controller: Controller = InformedController(world, seed) if name == INFORMED else get_controller(name)(problem)
    results: dict[bytes, tuple[float, float]] = {}
    curve: list[float] = []
    idle = 0
    while len(curve) < evaluations and idle < SAMPLE:
        genotypes = controller.ask(1)
        spent += time.thread_time()
        if not len(genotypes):
            break
        key = genotypes[0].tobytes()
        is_repeated = key in results
        ms, over = float(world.latency_ms(genotypes)[0]), float(excess(genotypes)[0])
        state = State.DONE if over <= 0 else State.INFEASIBLE
        results.setdefault(key, (-world.quality(genotypes[0]), ms))
        idle = idle + 1 if is_repeated else 0
        if not is_repeated and state is State.DONE:
            curve.append(hypervolume(np.array(list(results.values())), world.corner))
        told = Outcome(state, results[key], over, is_repeated, {})
        spent -= time.thread_time()
        controller.tell(genotypes, Outcomes.of([told]))
    return curve, spent + time.thread_time()


class InformedController:
    """Proposes what improves the front most when only the noise is unknown, from a sample of the space.

    Args:
        world: One that knows what to expect.
        seed: Of the sample.
    """

    def __init__(self, world: World, seed: int) -> None:
        if world.expected is None:
            raise ValueError(f"{world.name}: expected a world of a table")
        self._corner, self._noise = world.corner, world.noise
        sampled = world.space.sample(INFORMED_SAMPLE, np.random.default_rng(seed))
        self._left = distinct(np.concatenate([world.space.encode([world.space.smallest]), sampled]))
        self._ms_n, self._mean_n = world.latency_ms(self._left), np.asarray(world.expected(self._left))
        self._costs: list[Floats] = []

    def ask(self, count: int) -> Genotypes:
        """The one genotype ``[1, c]`` that promises most."""
        costs = np.array(self._costs).reshape(-1, 2)
        front = Front.of(costs[:, 1], -costs[:, 0], -self._corner[0], self._corner[1])
        gain_n = front.expected_improvement(self._ms_n, self._mean_n, np.full(len(self._left), self._noise))
        best = int(np.argmax(gain_n))
        asked: Genotypes = self._left[[best]]
        is_left_n = np.arange(len(self._left)) != best
        self._left, self._ms_n, self._mean_n = self._left[is_left_n], self._ms_n[is_left_n], self._mean_n[is_left_n]
        return asked

    def tell(self, genotypes: Genotypes, outcomes: Outcomes) -> None:
        """Take in the noise."""
        self._costs += list(outcomes.costs_nk)


def proposal_seconds(name: str) -> float:
    """Processor time per proposal after `FINISHED` evaluations in `elastic`."""
    problem = toy_problem("elastic", limit=400.0)
    controller = get_controller(name)(problem)
    drive(controller, problem, FINISHED, batch=FINISHED // 4)
    proposed, spent = 0, 0.0
    while proposed < PROPOSALS:
        start = time.thread_time()
        genotypes = controller.ask(PROPOSALS)
        spent += time.thread_time() - start
        if not len(genotypes):
            break
        proposed += len(genotypes)
        failed = Outcome(State.FAILED, (float("nan"), 0.0), -1.0, False, {})
        controller.tell(genotypes, Outcomes.of([failed] * len(genotypes)))
    return spent / max(1, proposed)


def at(curve: list[float], count: int) -> float:
    """The hypervolume after so many evaluations, or after all where nothing new was left."""
    return curve[min(count, len(curve)) - 1]


def needed(curves: list[list[float]], goal: float) -> str:
    """The mean number of evaluations until a hypervolume, its interval, and how many seeds missed it."""
    counts = [next((n for n, volume in enumerate(curve, 1) if volume >= goal), len(curve)) for curve in curves]
    missed = sum(curve[-1] < goal for curve in curves)
    mean = mean_interval(counts)
    return f"{mean.value:.0f} [{mean.low:.0f}, {mean.high:.0f}]" + (f", {missed} missed" if missed else "")


if __name__ == "__main__":
    main()
