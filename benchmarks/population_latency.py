"""Latency, parameters and MACs of a million networks, against one op graph at a time.

    python benchmarks/population_latency.py [--target pixel6] [--space elastic] [--count 1000000]

Tabulating the space's blocks is done once for a table and timed apart. Prints seconds on one core, the ratio to
lowering and pricing one network after the other, and the largest relative difference between the two on a sample.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from latency_tables import LatencyPredictor, load_target
from search_spaces import get_space, population_cost


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="pixel6")
    parser.add_argument("--space", default="elastic")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=200, help="networks that are also lowered one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    space, predictor = get_space(arguments.space), LatencyPredictor(load_target(arguments.target))
    genotypes = space.sample(arguments.count, np.random.default_rng(0))

    started = time.perf_counter()
    predictor.population(space, genotypes[:1])
    population_cost(space, genotypes[:1])
    tabulated = time.perf_counter() - started

    seconds = []
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        latencies, costs = predictor.population(space, genotypes), population_cost(space, genotypes)
        seconds.append(time.perf_counter() - started)

    architectures = space.decode(genotypes[: arguments.sample])
    started = time.perf_counter()
    graphs = [space.lower(architecture) for architecture in architectures]
    singly = [(predictor.graph(graph).ms, graph.params, graph.macs) for graph in graphs]
    each = (time.perf_counter() - started) / len(architectures)

    together = np.stack([latencies.ms, costs.params, costs.macs], axis=1)[: arguments.sample]
    difference = float(np.abs(together / np.array(singly) - 1).max())
    fastest = min(seconds)
    print(f"{arguments.count:,} genotypes of {space.name}, target {predictor.table.name}")
    print(f"tables of all blocks, once   {tabulated:8.2f} s")
    print(f"latency, parameters, MACs    {fastest:8.2f} s, {arguments.count / fastest:,.0f} networks/s")
    print(f"one graph at a time          {each * arguments.count:8.0f} s for as many ({each * 1e3:.2f} ms each)")
    print(f"ratio                        {each * arguments.count / fastest:8.0f} x")
    print(f"largest relative difference  {difference:8.1e} on {arguments.sample} networks")


if __name__ == "__main__":
    main()
