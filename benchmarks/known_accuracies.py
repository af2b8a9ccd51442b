"""Evaluations that controllers need on a table of known accuracies until they have its best network within a latency.

    python benchmarks/controllers.py --evaluate RUN --networks 1200 --table TABLE.csv   # makes one from a supernet
    python benchmarks/known_accuracies.py TABLE.csv [--space elastic-mini] [--target pixel6] [--seeds 10]

Networks that the table lacks are never proposed, as in ``nas search --accuracies TABLE.csv``. Limits are on the upper
end of the predicted latency, and such that the given shares of the table are within them. A search is done when the
best that it has found is at most ``--tolerance`` points less accurate than the best of the table within the limit.
Prints, for each limit and controller, the mean over seeds of the evaluations that took, the most that any seed took,
how many seeds were not done within ``--evaluations``, and by how many points those missed the best.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latency_tables import LatencyPredictor, load_target
from nas.controllers import get_controller
from nas.evaluation.accuracy_table import AccuracyTable
from nas.objectives.bounds import Bounds, Device, Limit
from nas.objectives.objective import ACCURACY, Objective, latency_of
from nas.testing import drive
from search_spaces import Genotypes, get_space

CONTROLLERS = ("predictor", "random", "local", "evolution", "nsga2", "tpe")
SHARES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class World:
    """A table with a limit.

    Attributes:
        bounds: The limit, on the target.
        accuracy: Share of images, by genotype as bytes.
        within: The accuracies within the limit.
    """

    bounds: Bounds
    accuracy: dict[bytes, float]
    within: list[float]


def main() -> None:
    """Search and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--space", default="elastic-mini")
    parser.add_argument("--target", default="pixel6")
    parser.add_argument("--controllers", nargs="+", default=CONTROLLERS)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--tolerance", type=float, default=0.05, help="points")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    arguments = parser.parse_args()
    table = AccuracyTable.read(arguments.table, get_space(arguments.space))
    print(f"{len(table.accuracy)} networks, {min(table.accuracy.values()):.2%} to {max(table.accuracy.values()):.2%}")
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for share in arguments.shares:
        world = limited(table, arguments.target, share)
        best, tolerance = max(world.within), arguments.tolerance / 100
        good = sum(value >= best - tolerance for value in world.within)
        print(f"\n{share:.0%} within {world.bounds.limit_ms:.4g} ms; the best has {best:.2%}, {good} are as good")
        for name in arguments.controllers:
            tried = [search(world, name, seed, arguments.evaluations) for seed in seeds]
            print(f"{name:18}{summary(tried, best, tolerance)}", flush=True)


def limited(table: AccuracyTable, target: str, share: float) -> World:
    """The table with a limit that a share of its networks is within."""
    predictor, space = LatencyPredictor(load_target(target)), table.space
    genotypes = space.encode(list(table.accuracy))
    high_n = predictor.population(space, genotypes).high_ms
    limit_ms = float(np.quantile(high_n, share))
    bounds = Bounds(space, [Device(target, predictor, target)], [Limit(f"latency:{target}", limit_ms)])
    accuracy = dict(zip((row.tobytes() for row in genotypes), table.accuracy.values(), strict=True))
    within = [value for value, high in zip(accuracy.values(), high_n, strict=True) if high <= limit_ms]
    return World(bounds, accuracy, within)


def search(world: World, name: str, seed: int, evaluations: int) -> list[float]:
    """The accuracies that one search looks up, in order."""
    objectives = (Objective(ACCURACY, is_evaluated=True), latency_of(world.bounds.target))
    problem = world.bounds.problem(objectives, seed, evaluations, world.bounds.check())

    def known(genotype: Genotypes) -> float:
        return world.accuracy[genotype.tobytes()]

    driven = drive(get_controller(name)(problem), problem, evaluations, quality=known)
    return [-cost for cost in driven.costs[:, 0].tolist()]


def summary(tried: list[list[float]], best: float, tolerance: float) -> str:
    """What a controller needed."""
    needed = [next((n for n, value in enumerate(found, 1) if value >= best - tolerance), None) for found in tried]
    done = [n for n in needed if n is not None]
    missed = [best - max(found) for found, n in zip(tried, needed, strict=True) if n is None]
    text = f"mean {np.mean(done):5.1f}, most {max(done):3}" if done else "never"
    return text + (f"; {len(missed)} missed, by {100 * max(missed):.2f} points at most" if missed else "")


if __name__ == "__main__":
    main()
