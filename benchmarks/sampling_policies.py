"""Whether a sampling policy helps: supernets trained under several at equal cost, and networks trained alone.

For each policy and seed one supernet is trained. Networks of every complexity level (those that a search of the level
would visit, the same for all policies) are then judged with inherited weights on the search part of the images, and
some of them, spread over the levels, by being trained alone with the same recipe. Printed are, by level, the mean and
the best accuracy, means over seeds with 95 % intervals over seeds (Student's t), and Kendall's tau between inherited
accuracies and those of the networks trained alone, with a 95 % bootstrap interval over networks.

Equal cost is equal processor time. What a pass of one network costs is measured once, as so much per pass, per image
and per multiply-accumulate, and kept in the records; a policy's steps are then counted until the passes that it asks
for, forward passes for scores included, fill the budget. The time that a training really took is printed beside it.

Everything finished stands in the file of records, trainings that were stopped go on from their checkpoints; the same
command continues, and with other policies, more seeds or another `--cpu-minutes` it adds to what is there.

    python benchmarks/sampling_policies.py --records FILE [--estimate] [--workers 2]
    python benchmarks/sampling_policies.py --records FILE --policies uniform multi-architecture --space resnas-mini
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import multiprocessing
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from policy_costs import PassCosts, measure_costs, steps_within
from seed_intervals import with_interval

from nas.evaluation.evaluators import SupernetEvaluator
from nas.scores.rank_statistics import rank_correlation
from search_spaces import Architecture, SearchSpace, SingleSpace, get_space, population_cost
from supernets import Supernet
from supernets.data.image_data import ImageData
from supernets.data.sources import load_data
from supernets.sampling import get_policy
from supernets.sampling.levels import levels_of
from supernets.training.settings import TrainingSettings
from supernets.training.trainer import train_supernet

POLICIES = ["uniform", "sandwich", "complexity-aware", "conflict-aware"]
ALONE = 24
"""Networks trained alone, at least."""


@dataclass(frozen=True)
class Setup:
    """What numbers must have in common to stand in one table.

    Attributes:
        space: Name of the search space.
        data: Source of the images.
        batch_size: Images per step.
        cpu_minutes: Processor time of one supernet's training.
        alone_epochs: Epochs of a network that is trained alone.
        networks: Networks judged per level.
    """

    space: str
    data: str
    batch_size: int
    cpu_minutes: float
    alone_epochs: int
    networks: int


@dataclass(frozen=True)
class Job:
    """One training: of a supernet under ``policy``, or of network number ``alone`` of the pool."""

    policy: str
    seed: int
    steps: int
    alone: int | None = None

    @property
    def key(self) -> tuple[str, int, int | None]:
        """What it is among the jobs of a setup."""
        return self.policy, self.seed, self.alone


@dataclass(frozen=True)
class Result:
    """What a job found: accuracies of the pool's networks, or of the one network, and the seconds of its training."""

    accuracies: list[float]
    seconds: float
    steps: int


def main() -> None:
    """Run what the records lack and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--records", type=Path, required=True, metavar="FILE", help="JSON lines, added to")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--space", default="elastic-mini")
    parser.add_argument("--data", default="glyphs")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cpu-minutes", type=float, default=5.0, help="of each supernet's training")
    parser.add_argument("--alone-epochs", type=int, default=6)
    parser.add_argument("--networks", type=int, default=12, help="judged per level")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--estimate", action="store_true", help="only say how long it would take")
    arguments = parser.parse_args()
    setup = Setup(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Setup)})
    torch.set_num_threads(1)

    space, data = _surroundings(setup.space, setup.data)
    for policy in arguments.policies:
        get_policy(policy).prepare(space)
    records = Records(arguments.records, setup)
    costs = records.costs or measure_costs(space, data, setup.batch_size)
    jobs = plan(setup, costs, records, arguments.policies, arguments.seeds)
    tell_plan(setup, costs, jobs, records, arguments.workers)
    if arguments.estimate:
        return
    if records.costs is None:
        records.add_costs(costs)
    work(setup, jobs, records, arguments.workers)
    report(setup, jobs, records)


# -- what is to be done ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _surroundings(space: str, data: str) -> tuple[SearchSpace, ImageData]:
    images = load_data(data, get_space(space).image_side)
    return get_space(space, classes=images.classes), images


def pool_of(space: SearchSpace, networks: int) -> list[list[Architecture]]:
    """The networks that are judged, by level."""
    levels = levels_of(space)
    return [levels.draw(index, networks, np.random.default_rng(index)) for index in range(len(levels))]


def alone_of(pool: list[list[Architecture]]) -> list[int]:
    """Positions in the whole pool of those that are trained alone: the first ones of each level."""
    networks = len(pool[0])
    each = min(networks, math.ceil(ALONE / len(pool)))
    return [level * networks + number for level in range(len(pool)) for number in range(each)]


def plan(setup: Setup, costs: PassCosts, records: Records, policies: Sequence[str], seeds: int) -> list[Job]:
    """All jobs, those that the records hold already included; the supernets first, which take longest."""
    space, data = _surroundings(setup.space, setup.data)
    epoch = data.steps_per_epoch(setup.batch_size)
    alone = alone_of(pool_of(space, setup.networks))
    jobs = []
    for seed in range(seeds):
        for policy in policies:
            known = records.results.get((policy, seed, None))
            steps = (
                known.steps
                if known
                else steps_within(60 * setup.cpu_minutes, costs, policy, space, setup.batch_size, epoch, seed)
            )
            jobs.append(Job(policy, seed, steps))
    return jobs + [Job("uniform", 0, setup.alone_epochs * epoch, number) for number in alone]


def tell_plan(setup: Setup, costs: PassCosts, jobs: Sequence[Job], records: Records, workers: int) -> None:
    """Print what each policy does within the budget, and how long everything that is missing will take."""
    space, data = _surroundings(setup.space, setup.data)
    pool = [network for level in pool_of(space, setup.networks) for network in level]
    macs_n = population_cost(space, space.encode(pool)).macs
    batch, images = setup.batch_size, data.splits["search"]
    judging_n = [costs.forward_share * costs.seconds(images + 4 * 128, int(macs), passes=12) for macs in macs_n]
    print(f"{setup.space} on {setup.data}, batches of {batch}: {costs}")
    missing = 0.0
    for job in jobs:
        if job.key in records.results:
            continue
        if job.alone is None:
            missing += 60 * setup.cpu_minutes + sum(judging_n)
        else:
            missing += job.steps * (costs.seconds(batch, int(macs_n[job.alone])) + costs.step) + judging_n[job.alone]
    for job in jobs:
        if job.alone is None:
            epochs = job.steps / data.steps_per_epoch(batch)
            cost = 60e3 * setup.cpu_minutes / job.steps
            print(f"  {job.policy:20} seed {job.seed}  {job.steps:6} steps of {cost:6.1f} ms, {epochs:6.1f} epochs")
    count = sum(job.key not in records.results for job in jobs)
    print(
        f"{count} of {len(jobs)} trainings to do, about {missing / workers / 60:.0f} minutes with {workers} processes"
    )


# -- doing it --------------------------------------------------------------------------------------------------------


class Records:
    """Results of one setup, backed by a file of JSON lines that may hold those of others.

    Args:
        path: Of the file; made when the first line is added.
        setup: Whose results are read; those that hold whatever time supernets have also from setups with another.
    """

    def __init__(self, path: Path, setup: Setup) -> None:
        self.path, self.setup = path, setup
        self.work = path.with_suffix(".work")
        self.costs: PassCosts | None = None
        self.results: dict[tuple[str, int, int | None], Result] = {}
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # what was killed left half a line
            path.write_text(whole, encoding="utf-8")
        for line in map(json.loads, whole.splitlines()):
            # Neither what passes cost nor networks trained alone depend on the time of the supernets.
            if line["setup"] | {"cpu_minutes": setup.cpu_minutes} != asdict(setup):
                continue
            is_same = line["setup"] == asdict(setup)
            if "costs" in line:
                self.costs = PassCosts(**line["costs"])
            elif is_same or line["job"]["alone"] is not None:
                self.results[Job(**line["job"]).key] = Result(**line["result"])

    def add_costs(self, costs: PassCosts) -> None:
        """Keep what passes cost, so that a command that is continued plans the same steps."""
        self.costs = costs
        self._append({"costs": asdict(costs)})

    def add(self, job: Job, result: Result) -> None:
        """Keep a result."""
        self.results[job.key] = result
        self._append({"job": asdict(job), "result": asdict(result)})

    def folder(self, job: Job) -> Path:
        """Where the training of a job lies until it is done."""
        digest = hashlib.sha256(json.dumps([asdict(self.setup), asdict(job)]).encode()).hexdigest()[:16]
        return self.work / digest

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"setup": asdict(self.setup), **entry}, allow_nan=False) + "\n")


def work(setup: Setup, jobs: Sequence[Job], records: Records, workers: int) -> None:
    """Do the jobs that the records lack, with progress on standard error."""
    missing = [job for job in jobs if job.key not in records.results]
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(run_job, setup, job, records.folder(job)): job for job in missing}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                job, result = futures[future], future.result()
                records.add(job, result)
                shutil.rmtree(records.folder(job))
                what = job.policy if job.alone is None else f"network {job.alone} alone"
                accuracy, minutes = float(np.mean(result.accuracies)), (time.monotonic() - started) / 60
                print(
                    f"{minutes:5.1f} min  {done}/{len(missing)}  {what}, seed {job.seed}: accuracy {accuracy:.4f}",
                    file=sys.stderr,
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    shutil.rmtree(records.work, ignore_errors=True)


def run_job(setup: Setup, job: Job, folder: Path) -> Result:
    """Train, or go on training, and judge."""
    torch.set_num_threads(1)
    space, data = _surroundings(setup.space, setup.data)
    networks = [network for level in pool_of(space, setup.networks) for network in level]
    trained: SearchSpace = space
    if job.alone is not None:
        networks = [networks[job.alone]]
        trained = SingleSpace(space, networks[0])
    settings = TrainingSettings.from_dict(
        {
            "epochs": job.steps / data.steps_per_epoch(setup.batch_size),
            "batch_size": setup.batch_size,
            "policy": job.policy,
            "seed": job.seed,
        }
    )
    supernet = Supernet(trained, seed=job.seed)
    outcome = train_supernet(supernet, data, settings, folder, resume=True)
    evaluator = SupernetEvaluator(supernet, data, job.seed)
    accuracies = [evaluator.evaluate(network, job.seed).objective for network in networks]
    return Result(accuracies, outcome.seconds, outcome.steps)


# -- what came out ---------------------------------------------------------------------------------------------------


def report(setup: Setup, jobs: Sequence[Job], records: Records) -> None:
    """Print accuracies by level, differences and rank correlations."""
    space, _ = _surroundings(setup.space, setup.data)
    levels, alone = levels_of(space), [job for job in jobs if job.alone is not None]
    policies = list(dict.fromkeys(job.policy for job in jobs if job.alone is None))
    seeds = 1 + max(job.seed for job in jobs)
    found = {p: [records.results[p, seed, None] for seed in range(seeds)] for p in policies}
    accuracies = {
        policy: np.array([result.accuracies for result in results]).reshape(seeds, len(levels), setup.networks)
        for policy, results in found.items()
    }
    for what, best in (("mean", False), ("best", True)):
        by_level = {p: 100 * (values.max(axis=2) if best else values.mean(axis=2)) for p, values in accuracies.items()}
        print(f"\n{what} accuracy in %, {setup.networks} networks per level, {seeds} seeds")
        print(f"{'level':18}" + "".join(f"{policy:>22}" for policy in policies))
        for index, level in enumerate(levels.levels):
            name = f"{level.lowest / 1e6:.1f} to {level.highest / 1e6:.1f} M"
            print(f"{name:18}" + "".join(f"{with_interval(by_level[p][:, index]):>22}" for p in policies))
        print(f"{'all levels':18}" + "".join(f"{with_interval(by_level[p].mean(axis=1)):>22}" for p in policies))
        first = by_level[policies[0]].mean(axis=1)
        gains = [with_interval(by_level[p].mean(axis=1) - first, signed=True) for p in policies[1:]]
        print(f"{f'less {policies[0]}':18}{'':22}" + "".join(f"{gain:>22}" for gain in gains))

    truth = [records.results[job.key].accuracies[0] for job in alone]
    positions = [job.alone for job in alone if job.alone is not None]
    print(f"\n{len(truth)} networks trained alone: accuracy {100 * min(truth):.1f} to {100 * max(truth):.1f} %")
    print(f"{'policy':20}{'Kendall tau (networks)':>28}{'by seed (seeds)':>20}{'steps':>10}{'minutes':>10}")
    for policy in policies:
        inherited = accuracies[policy].reshape(seeds, -1)[:, positions]
        tau = rank_correlation(inherited.mean(axis=0), truth)
        by_seed = np.array([rank_correlation(each, truth, resamples=0).value for each in inherited])
        steps, minutes = (
            np.mean(each) for each in zip(*((r.steps, r.seconds / 60) for r in found[policy]), strict=True)
        )
        interval = f"{tau.value:.3f} [{tau.low:.3f}, {tau.high:.3f}]"
        print(f"{policy:20}{interval:>28}{with_interval(by_seed, 3):>20}{steps:10.0f}{minutes:10.1f}")


if __name__ == "__main__":
    main()
