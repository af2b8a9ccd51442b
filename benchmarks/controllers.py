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
evaluations; a seed that does not get there counts its whole budget and is told apart as ``missed``.

    python benchmarks/controllers.py --trained TRUTH.json [--seeds 10] [--json FILE]
    python benchmarks/controllers.py --evaluate RUN --networks 2000 --table TABLE.jsonl
    python benchmarks/controllers.py --table TABLE.jsonl [--space elastic-mini]
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from trained_vits import TrainedSet, load_trained_sets, lower

from latency_tables import LatencyPredictor, load_target
from nas.controllers import Outcome, Outcomes, SearchProblem, get_controller
from nas.goals import Objective, latency_of
from nas.objectives import hypervolume
from nas.statistics import mean_interval
from nas.trial import State
from search_spaces import Choice, Genotypes, Op, SearchSpace, Slot, get_space

Floats = npt.NDArray[np.float64]

TARGET = "pixel6"
SAMPLE = 1000
"""Networks that the corner of the hypervolume comes from."""
MARKS = (25, 50, 100, 150, 200, 300)


def main() -> None:
    """Run the benchmark and print a table for each world."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trained", type=Path, help="JSON file of trained networks")
    parser.add_argument("--table", type=Path, help="JSON lines of evaluated networks")
    parser.add_argument("--evaluate", type=Path, metavar="RUN", help="evaluate networks of its supernet into --table")
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--space", default="elastic-mini", help="of the table")
    parser.add_argument("--controllers", nargs="+", default=["nsga2", "predictor"], help="beside random")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="also write all hypervolumes here")
    arguments = parser.parse_args()
    if arguments.evaluate is not None:
        if arguments.table is None:
            parser.error("--evaluate needs --table")
        write_table(arguments.evaluate, arguments.table, arguments.networks)
        return
    document = {}
    for world in worlds(arguments.trained, arguments.table, arguments.space):
        document[world.name] = compare(world, arguments.controllers, arguments.seeds)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(document))


# -- searching -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """What is searched.

    Attributes:
        quality: Of one genotype ``[c]``; higher is better.
        size: Number of networks where it is small, else None.
    """

    name: str
    space: SearchSpace
    quality: Callable[[Genotypes], float]
    size: int | None = None

    @cached_property
    def predictor(self) -> LatencyPredictor:
        """Prices the networks."""
        return LatencyPredictor(load_target(TARGET))

    def latency_ms(self, genotypes: Genotypes) -> Floats:
        """Of genotypes ``[n, c]``."""
        return np.asarray(self.predictor.population(self.space, genotypes).ms)

    @cached_property
    def corner(self) -> tuple[float, float]:
        """Of the hypervolume: negative quality and latency."""
        sample = self.space.sample(SAMPLE, np.random.default_rng(0))
        qualities = [self.quality(genotype) for genotype in sample]
        slowest = self.space.encode([self.space.largest])
        return -float(np.quantile(qualities, 0.1)), float(self.latency_ms(np.concatenate([sample, slowest])).max())


def compare(world: World, controllers: list[str], seeds: int) -> dict[str, list[list[float]]]:
    """The hypervolumes of each controller after each evaluation, for each seed; prints what they amount to."""
    targets = (200, 1000) if world.size is None else (world.size // 5, 4 * world.size // 5)
    budgets = {"random": targets[1], **{name: min(MARKS[-1], world.size or MARKS[-1]) for name in controllers}}
    curves, seconds = {}, {}
    for name, budget in budgets.items():
        runs = [search(world, name, seed, budget) for seed in range(seeds)]
        curves[name] = [curve for curve, _ in runs]
        seconds[name] = float(np.mean([spent for _, spent in runs])) / budget
    goals = {count: float(np.mean([at(curve, count) for curve in curves["random"]])) for count in targets}
    marks = [mark for mark in MARKS if mark <= budgets[controllers[0]]]
    print(f"\n{world.name}: hypervolume as a share of random search's after {targets[1]}, mean over {seeds} seeds")
    columns = "".join(f"{f'@{mark}':>8}" for mark in marks) + "".join(f"{f'reaches random@{n}':>32}" for n in targets)
    print(f"{'controller':12}{columns}{'ms/proposal':>14}")
    for name in budgets:
        shares = [np.mean([at(curve, mark) for curve in curves[name]]) / goals[targets[1]] for mark in marks]
        cells = "".join(f"{share:8.3f}" for share in shares)
        reached = "".join(f"{needed(curves[name], goals[count]):>32}" for count in targets)
        print(f"{name:12}{cells}{reached}{1e3 * seconds[name]:14.1f}", flush=True)
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
    controller = get_controller(name)(problem)
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


def at(curve: list[float], count: int) -> float:
    """The hypervolume after so many evaluations, or after all where nothing new was left."""
    return curve[min(count, len(curve)) - 1]


def needed(curves: list[list[float]], goal: float) -> str:
    """The mean number of evaluations until a hypervolume, its interval, and how many seeds missed it."""
    counts = [next((n for n, volume in enumerate(curve, 1) if volume >= goal), len(curve)) for curve in curves]
    missed = sum(curve[-1] < goal for curve in curves)
    mean = mean_interval(counts)
    return f"{mean.value:.0f} [{mean.low:.0f}, {mean.high:.0f}]" + (f", {missed} missed" if missed else "")


# -- worlds ----------------------------------------------------------------------------------------------------------


def worlds(trained: Path | None, table: Path | None, space: str) -> Iterator[World]:
    """The worlds that were asked for."""
    for pool in [] if trained is None else load_trained_sets(trained):
        if "base_dim" not in pool.settings[0]:
            yield from _pool_worlds(pool)
    if table is not None:
        yield table_world(get_space(space), table)


def _pool_worlds(trained: TrainedSet) -> Iterator[World]:
    space = PoolSpace(trained)
    rows = {row.tobytes(): number for number, row in enumerate(space.pool)}
    for task, labels_n in trained.tasks.items():
        truth = labels_n.tolist()

        def quality(genotype: Genotypes, truth: list[float] = truth) -> float:
            return float(truth[rows[genotype.tobytes()]])

        yield World(f"{trained.name} {task}", space, quality, len(rows))


class PoolSpace(SearchSpace):
    """The plain ViTs of a trained set; anything else is repaired to the nearest of them.

    Values are hundredths; a block that a network does not have has heads and ratio 0.
    """

    image_side = 224
    classes = 100

    def __init__(self, trained: TrainedSet) -> None:
        self.name = trained.name
        first = trained.settings[0]
        self._width = next(name for name in ("hidden_dim", "embed_dim") if name in first)
        self._fixed = {"head_dim": first["head_dim"]} if "head_dim" in first else {}
        self._depth = max(settings["depth"] for settings in trained.settings)
        rows = [self._values(settings) for settings in trained.settings]
        self._choices = tuple(Choice(name, tuple(sorted({row[name] for row in rows}))) for name in rows[0])
        tables = {choice.name: choice.values for choice in self._choices}
        self.pool = np.array(
            [[tables[name].index(value) for name, value in row.items()] for row in rows], dtype=np.int8
        )

    def _values(self, settings: Mapping[str, Any]) -> dict[str, int]:
        values = {"width": 100 * settings[self._width], "depth": 100 * settings["depth"]}
        for part in ("num_heads", "mlp_ratio"):
            numbers = [*settings[part], *[0] * (self._depth - len(settings[part]))]
            values |= {f"{part}.{place}": round(100 * number) for place, number in enumerate(numbers)}
        return values

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The width, the depth, and the heads and ratio of each block."""
        return self._choices

    @property
    def slots(self) -> tuple[Slot, ...]:
        """Stem, blocks and head."""
        blocks = [
            Slot(f"block.{place}", ("width", f"num_heads.{place}", f"mlp_ratio.{place}"))
            for place in range(self._depth)
        ]
        return (Slot("stem", ("width",)), *blocks, Slot("head", ("width",)))

    def block(self, slot: str, values: Mapping[str, int]) -> PoolBlock | None:
        """The operators of one block, None where the network has none."""
        kind, _, place = slot.partition(".")
        heads, ratio = (values.get(f"{part}.{place}", 100) for part in ("num_heads", "mlp_ratio"))
        if not heads or not ratio:
            return None
        settings = {
            self._width: values["width"] // 100,
            "depth": 1,
            "num_heads": [heads // 100],
            "mlp_ratio": [ratio / 100],
            **self._fixed,
        }
        return PoolBlock(dict(lower(settings).blocks)["block.0" if kind == "block" else kind])

    def input_shape(self, values: Mapping[str, int]) -> tuple[int, ...]:
        """Three colours of 224 by 224 pixels."""
        return (3, self.image_side, self.image_side)

    def repair(self, genotypes: Genotypes) -> Genotypes:
        """The nearest network of the pool, each choice counted by the share of its range."""
        scale_c = 1.0 / np.maximum(self.cardinalities - 1, 1)
        nearest_n = cdist(genotypes * scale_c, self.pool * scale_c, "cityblock").argmin(axis=1)
        return self.pool[nearest_n]

    def sample(self, count: int, generator: np.random.Generator) -> Genotypes:
        """Networks of the pool, with repetitions."""
        return self.pool[generator.integers(len(self.pool), size=count)]


@dataclass(frozen=True)
class PoolBlock:
    """A block that is known by its operators."""

    operators: tuple[Op, ...]

    def ops(self) -> tuple[Op, ...]:
        """The operators."""
        return self.operators


def table_world(space: SearchSpace, path: Path) -> World:
    """The world of a table of evaluated networks of a space."""
    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.model_selection import cross_val_predict

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    genotypes = np.array([line["genotype"] for line in lines], dtype=np.int8)
    truth_n = np.array([line["quality"] for line in lines])
    model = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, max_depth=4, random_state=0)
    held_out_n = cross_val_predict(model, genotypes, truth_n, cv=5)
    noise = float(np.std(truth_n - held_out_n))
    explained = 1.0 - noise**2 / float(np.var(truth_n))
    print(f"{path.name}: {len(lines)} networks, quality {truth_n.min():.4f} to {truth_n.max():.4f}")
    print(f"trees explain {explained:.0%} of the variance of held-out networks; noise {noise:.4f}")
    model.fit(genotypes, truth_n)
    memory: dict[bytes, float] = {}

    def quality(genotype: Genotypes) -> float:
        key = genotype.tobytes()
        if key not in memory:
            luck = float(np.random.default_rng(zlib.crc32(key)).standard_normal())
            memory[key] = float(model.predict(genotype[None])[0]) + noise * luck
        return memory[key]

    return World(f"{space.name} after {path.name}", space, quality)


def write_table(run: Path, path: Path, networks: int) -> None:
    """Evaluate random networks with the weights of a run into a table; what it holds already is kept."""
    from nas.evaluate import SupernetEvaluator
    from nas.run_training import supernet_checkpoint
    from supernets.checkpoint import load_supernet
    from supernets.data import load_data

    supernet, metadata = load_supernet(supernet_checkpoint(run), "cpu")
    space = get_space(metadata["space"])
    evaluator = SupernetEvaluator(supernet, load_data(metadata["data"]["source"], metadata["data"]["image_side"]))
    genotypes = space.sample(networks, np.random.default_rng(0))
    done = len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0
    with path.open("a", encoding="utf-8") as file:
        for genotype, architecture in zip(genotypes[done:], space.decode(genotypes[done:]), strict=True):
            result = evaluator.evaluate(architecture, 0)
            line = {"genotype": genotype.tolist(), "quality": result.objective, **result.scores}
            file.write(json.dumps(line) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
