"""What `benchmarks/controllers.py` searches: worlds in which an evaluation is answered at once.

Legend of array suffixes: n genotypes, c choices, m networks of a pool.
"""

from __future__ import annotations

import csv
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
from nas.controllers.proposals import distinct
from nas.evaluation.accuracy_table import AccuracyTable
from search_spaces import Choice, Genotypes, Op, SearchSpace, Slot, get_space

Floats = npt.NDArray[np.float64]

TARGET = "pixel6"
SAMPLE = 1000
"""Networks that the corner of the hypervolume comes from."""


@dataclass(frozen=True)
class World:
    """What is searched.

    Attributes:
        quality: Of one genotype ``[c]``; higher is better.
        size: Number of networks where it is small, else None.
        expected: What is expected of genotypes ``[n, c]``, ``[n]``, where quality is that and noise; else None.
        noise: Its standard deviation.
    """

    name: str
    space: SearchSpace
    quality: Callable[[Genotypes], float]
    size: int | None = None
    expected: Callable[[Genotypes], Floats] | None = None
    noise: float = 0.0

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
        nearest: Genotypes = self.pool[nearest_n]
        return nearest

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

    known = AccuracyTable.read(path, space).accuracy
    genotypes, truth_n = space.encode(list(known)), np.array(list(known.values()))
    model = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, max_depth=4, random_state=0)
    held_out_n = cross_val_predict(model, genotypes, truth_n, cv=5)
    noise = float(np.std(truth_n - held_out_n))
    explained = 1.0 - noise**2 / float(np.var(truth_n))
    print(f"{path.name}: {len(known)} networks, quality {truth_n.min():.4f} to {truth_n.max():.4f}")
    print(f"trees explain {explained:.0%} of the variance of held-out networks; noise {noise:.4f}")
    model.fit(genotypes, truth_n)
    memory: dict[bytes, float] = {}

    def quality(genotype: Genotypes) -> float:
        key = genotype.tobytes()
        if key not in memory:
            luck = float(np.random.default_rng(zlib.crc32(key)).standard_normal())
            memory[key] = float(model.predict(genotype[None])[0]) + noise * luck
        return memory[key]

    return World(f"{space.name} after {path.name}", space, quality, expected=model.predict, noise=noise)


def write_table(run: Path, path: Path, networks: int) -> None:
    """Evaluate random networks with the weights of a run into a table; what it holds already is kept."""
    from nas.evaluation.evaluators import SupernetEvaluator
    from nas.runs.folder import supernet_checkpoint
    from supernets.checkpoint import load_supernet
    from supernets.data.sources import load_data

    supernet, metadata = load_supernet(supernet_checkpoint(run), "cpu")
    space = get_space(metadata["space"])
    evaluator = SupernetEvaluator(supernet, load_data(metadata["data"]["source"], metadata["data"]["image_side"]))
    drawn = distinct(space.sample(2 * networks, np.random.default_rng(0)))[:networks]
    done = len(path.read_text(encoding="utf-8").splitlines()) - 1 if path.exists() else -1
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if done < 0:
            writer.writerow(["architecture", "accuracy", "cross_entropy"])
        for architecture in space.decode(drawn[max(done, 0) :]):
            result = evaluator.evaluate(architecture, 0)
            writer.writerow([architecture.to_json(), result.objective, result.scores["cross_entropy"]])
            file.flush()
