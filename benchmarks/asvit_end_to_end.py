"""The whole of As-ViT without training: the search of a seed by REINFORCE, then the growth of a family from it.

    python benchmarks/asvit_end_to_end.py [--steps 500] [--up-to 80M] [--workers 2] [-o RUNS]  the whole, timed
    python benchmarks/asvit_end_to_end.py --project   single draws in CPU seconds, and the projected whole
    python benchmarks/asvit_end_to_end.py --compare [--measured RUNS/seed]   the published controller and its variants

The controllers of `--compare` search surrogates. Without `--measured` they know no network: each metric's logarithm is
a random additive function of the choices, with the noise that five draws leave on the real ones (3 % for the length,
8 % for the condition number). With it both functions are fitted to the networks of a search that was run, and the noise
is what the fit leaves over. What a controller settles on is given the share of the way from the average network (0 %)
to the best one (100 %) by the noiseless sum of both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from nas.cli.progress import ProgressPrinter
from nas.controllers import Outcome, Outcomes, SearchProblem
from nas.controllers.reinforce import ReinforceController, ReinforceOptions
from nas.growth.rules import PROXY_DIVISOR, grown_topologies
from nas.objectives.objective import Objective
from nas.records.trial import State
from nas.scores.asvit import scores_of_draw
from nas.scores.features import draw_network
from nas.scores.ntk import noise_images
from search_spaces import Genotypes, get_space
from search_spaces.asvit import AsvitSpace
from search_spaces.asvit_topology import AsvitTopology, parse_topology, topology_graph
from supernets.families.asvit import build_topology

Floats = npt.NDArray[np.float64]

DRAWS = 5
SEED = "8,2,3|4,1,2|4,1,4|4,1,6|32"
LARGEST_PARAMS = 80e6


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--up-to", default="80M")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--output", "-o", type=Path, default=Path("runs/asvit-end-to-end"))
    parser.add_argument("--sample", type=int, default=12, help="networks that --project measures of the seed search")
    parser.add_argument("--project", action="store_true")
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--measured", type=Path, help="run folder of a seed search, for --compare")
    arguments = parser.parse_args()
    if arguments.compare:
        compare(arguments.steps, arguments.measured)
    elif arguments.project:
        project(arguments.steps, arguments.sample, arguments.workers)
    else:
        run(arguments.steps, arguments.up_to, arguments.workers, arguments.output)


def run(steps: int, up_to: str, workers: int, folder: Path) -> None:
    """The whole; goes on where an earlier call was stopped."""
    import nas
    from nas import search

    space = get_space("asvit")
    assert isinstance(space, AsvitSpace)
    with ProgressPrinter() as progress:
        started = time.monotonic()
        seed_run = folder / "seed"
        result = search(
            "asvit", controller="reinforce", evaluations=steps, workers=workers, progress=progress,
            output=seed_run, resume=(seed_run / "settings.json").exists(),
        )  # fmt: skip
        searched = time.monotonic() - started
        assert result.settled is not None, "the search was interrupted"
        topology = space.topology(result.settled.architecture)
        scores = result.settled.scores
        print(f"seed {topology}: NTK condition {scores['ntk_condition']:.3g},", end=" ")
        print(f"length distortion {scores['length_distortion']:.3g}")
        print(f"search: {result.evaluated} networks in {searched:.0f} s, {result.evaluated / searched:.2f} a second")
        started = time.monotonic()
        family_run = folder / "family"
        family = nas.scale(
            f"asvit:{topology}", up_to, workers=workers, progress=progress,
            output=family_run, resume=(family_run / "settings.json").exists(),
        )  # fmt: skip
        grown = time.monotonic() - started
    measured = int(family.evaluated)
    print(f"growth: {len(family.front)} members, {measured} networks in {grown:.0f} s")
    for member in family.front:
        print(f"  {member.params / 1e6:6.1f} M  {member.macs / 1e9:6.2f} GMACs  {member.architecture['width']}")
    print(f"whole: {(searched + grown) / 60:.1f} minutes with {workers} workers (time of this session)")


def project(steps: int, sample: int, workers: int) -> None:
    """Single draws in CPU seconds of one thread, multiplied up. Workers are taken to be as fast as one alone."""
    torch.set_num_threads(1)
    space = get_space("asvit")
    assert isinstance(space, AsvitSpace)
    cpu_seconds(parse_topology("4,8,2|2,4,2|2,2,2|2,1,2|16"))  # warm up
    networks = space.decode(space.sample(sample, np.random.default_rng(0)))
    seconds = [cpu_seconds(space.topology(network)) for network in networks]
    seed = statistics.fmean(seconds) * DRAWS
    print(f"seed search: {statistics.fmean(seconds):.2f} CPU s a draw of a random topology, {seed:.1f} s a network")

    growth, networks_grown, steps_grown = 0.0, 0, 0
    topology = parse_topology(SEED)
    while topology_graph(topology).params < LARGEST_PARAMS:
        candidates = grown_topologies(topology)
        widths = len(candidates) // 4
        topology = candidates[steps_grown % 4 * widths + widths // 2]  # stages in turn, a middle width
        steps_grown += 1
        proxy = replace(topology, width=topology.width // PROXY_DIVISOR)
        step = cpu_seconds(proxy)
        growth += step * DRAWS * len(candidates)
        networks_grown += len(candidates)
        print(f"growth: {proxy}: {step:.2f} CPU s a draw, {len(candidates)} candidates")
    total = (steps * seed + growth) / workers
    print(
        f"projected: {steps} steps {steps * seed / 60:.0f} + {networks_grown} candidates {growth / 60:.0f} CPU minutes"
    )
    print(f"with {workers} workers {total / 60:.0f} minutes; {workers / seed:.2f} steps a second")


def cpu_seconds(topology: AsvitTopology) -> float:
    """CPU time of one draw: weights, tangent kernel, length distortion."""
    started = time.process_time()
    network = draw_network(partial(build_topology, topology), 0)
    scores_of_draw(network, noise_images(224, 0), 224, 0)
    return time.process_time() - started


@dataclass(frozen=True)
class Surrogate:
    """Both metrics as additive functions: a table per choice for the logarithm of each, higher is better.

    Attributes:
        length: Of the length distortion.
        condition: Of the condition number of the tangent kernel, negated.
        noise: Standard deviations of both.
    """

    length: list[Floats]
    condition: list[Floats]
    noise: tuple[float, float]

    @classmethod
    def drawn(cls, sizes: Sequence[int], generator: np.random.Generator) -> Surrogate:
        """A random one."""
        length, condition = ([generator.normal(size=size) * 0.25 for size in sizes] for _ in range(2))
        return cls(length, condition, (0.03, 0.08))

    @classmethod
    def measured(cls, run: Path, space: AsvitSpace) -> Surrogate:
        """Fitted to the networks of a seed search."""
        lines = [json.loads(line) for line in (run / "trials.jsonl").read_text(encoding="utf-8").splitlines()]
        done = [line for line in lines if line["state"] == State.DONE.value]
        genotypes = np.array([line["genotype"] for line in done])
        tables, noise = [], []
        for name, sign in (("length_distortion", 1.0), ("ntk_condition", -1.0)):
            values_n = sign * np.log([line["scores"][name] for line in done])
            table, residual = _additive_fit(genotypes, values_n, space.cardinalities.tolist())
            tables.append(table)
            noise.append(residual)
            print(f"{name}: {len(done)} networks, {1 - residual**2 / float(np.var(values_n)):.0%} of the variance fits")
        return cls(tables[0], tables[1], (noise[0], noise[1]))


def _additive_fit(genotypes: npt.NDArray[np.int64], values_n: Floats, sizes: list[int]) -> tuple[list[Floats], float]:
    """Ridge regression on the one-hot encoding: a table per choice, and the deviation that is left."""
    columns = np.concatenate([np.eye(size)[genotypes[:, choice]] for choice, size in enumerate(sizes)], axis=1)
    columns = columns - columns.mean(axis=0)
    centred_n = values_n - values_n.mean()
    weights = np.linalg.solve(columns.T @ columns + np.eye(columns.shape[1]), columns.T @ centred_n)
    residual = float(np.std(centred_n - columns @ weights))
    return np.split(weights, np.cumsum(sizes)[:-1]), residual


def compare(steps: int, run: Path | None, seeds: int = 10) -> None:
    """What each variant of the controller settles on, on the surrogate."""
    space = get_space("asvit")
    assert isinstance(space, AsvitSpace)
    variants = {
        "published: change, most probable": ReinforceOptions(),
        "value, most probable": ReinforceOptions(rewards_value=True),
        "change, best visited": ReinforceOptions(settles_on_best=True),
        "value, best visited": ReinforceOptions(rewards_value=True, settles_on_best=True),
    }
    measured = None if run is None else Surrogate.measured(run, space)
    print(f"{steps} steps, {seeds} seeds: share of the way to the best network, median [worst, best]")
    for name, options in variants.items():
        places = [way_to_the_best(measured, steps, seed, options) for seed in range(seeds)]
        print(f"{name:34s} {statistics.median(places):6.1%} [{min(places):.1%}, {max(places):.1%}]")


def way_to_the_best(measured: Surrogate | None, steps: int, seed: int, options: ReinforceOptions) -> float:
    """Where what one search settles on lies between the average network and the best one."""
    generator = np.random.default_rng(1000 + seed)
    space = get_space("asvit")
    surrogate = measured or Surrogate.drawn(space.cardinalities.tolist(), generator)
    problem = SearchProblem(
        space,
        seed,
        objectives=(Objective("length_distortion", is_evaluated=True),),
        known_costs=lambda rows: np.full((len(rows), 1), np.nan),
        excess=lambda rows: np.full(len(rows), -np.inf),
        overshoot=lambda rows: np.full(len(rows), -np.inf),
        feasible=space.encode([space.smallest]),
        evaluations=steps,
    )
    controller = ReinforceController(problem, options)
    while len(genotypes := controller.ask(1)):
        noise = generator.normal(size=2) * surrogate.noise
        scores = {
            "length_distortion": 1e-3 * math.exp(_total(surrogate.length, genotypes[0]) + noise[0]),
            "ntk_condition": 10 * math.exp(-_total(surrogate.condition, genotypes[0]) + noise[1]),
        }
        controller.tell(genotypes, Outcomes.of([Outcome(State.DONE, (0.0,), -math.inf, False, scores)]))
    settled = controller.settle()
    assert settled is not None
    both = [first + second for first, second in zip(surrogate.length, surrogate.condition, strict=True)]
    average, best = (sum(float(pick(table)) for table in both) for pick in (np.mean, np.max))
    return (_total(both, settled) - average) / (best - average)


def _total(tables: Sequence[Floats], genotype: Genotypes) -> float:
    return float(sum(table[index] for table, index in zip(tables, genotype.tolist(), strict=True)))


if __name__ == "__main__":
    main()
