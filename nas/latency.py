"""Latency tables of this machine: built on first use, kept in the user's cache, extended when a new space needs it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from latency_tables.errors import TableMissingError
from latency_tables.table import LatencyTable
from latency_tables.targets import LOCAL, load_target, staleness, user_table_path
from nas.progress import Progress, StageProgress, ignore
from search_spaces import Architecture, SearchSpace, get_space, population_cost

NETWORKS_PER_SPACE = 12
"""On first use; they suffice for an error of 2 % on `elastic-mini`. Writing the ONNX files takes most of the time."""
CANDIDATES = 4000


def ensure_target(target: str, space: SearchSpace, progress: Progress = ignore) -> LatencyTable:
    """The table of a target; that of this machine is built where it is missing, outdated or has not seen the space.

    Raises:
        UnknownNameError: There is no such target.
        TableError: The target's file is broken.
        BusyMachineError: This machine is too busy to be measured.
    """
    if target != LOCAL:
        return load_target(target)
    try:
        table = load_target(target)
    except TableMissingError:
        return build_local([space.name], progress=progress)
    covered = covered_spaces(table)
    if space.name in covered and not staleness(table):
        return table
    return build_local(sorted({*covered, space.name}), progress=progress)


def build_local(
    spaces: Sequence[str],
    *,
    networks: int = NETWORKS_PER_SPACE,
    seed: int = 0,
    progress: Progress = ignore,
) -> LatencyTable:
    """Measure networks of the spaces on this machine through ONNX Runtime and keep the fitted table.

    Args:
        spaces: Names of search spaces.
        networks: Networks to measure of each space, its smallest and largest among them.
        seed: Of the sample.
        progress: Receives `nas.progress.StageProgress`.
    """
    from latency_tables.build import SampledNetwork, build_local_table
    from nas.onnx_export import export_onnx
    from supernets import build_network

    sampled: list[SampledNetwork] = []
    with tempfile.TemporaryDirectory(prefix="nas-latency-") as folder:
        for name in spaces:
            space = get_space(name)
            for number, architecture in enumerate(spread_sample(space, networks, seed)):
                progress(StageProgress(f"latency table: write networks of {name}", number, networks))
                path = Path(folder) / f"{name}-{number}.onnx"
                side = space.input_shape(dict(architecture.settings))[-1]
                export_onnx(build_network(space, architecture).eval(), side, path)
                sampled.append(SampledNetwork(f"{name}/{number}", space.lower(architecture), path))
        table = build_local_table(
            sampled,
            progress=lambda stage, done, total: progress(
                StageProgress(f"latency table: {stage} networks", done, total)
            ),
        )
    path = user_table_path(LOCAL)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.save(path)
    return table


def spread_sample(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    """Random networks of a space whose MACs are spread evenly on a logarithmic scale, its two ends included."""
    ends = space.encode([space.smallest, space.largest])
    drawn = np.unique(space.sample(CANDIDATES, np.random.default_rng(seed)), axis=0)
    log_macs = np.log(population_cost(space, drawn).macs)
    goals = np.linspace(log_macs.min(), log_macs.max(), count)[1:-1]
    chosen: list[int] = []
    for goal in goals:
        distance = np.abs(log_macs - goal)
        distance[chosen] = np.inf
        chosen.append(int(np.argmin(distance)))
    return space.decode(np.concatenate([ends, drawn[chosen]]))


def covered_spaces(table: LatencyTable) -> list[str]:
    """The spaces whose networks a table of this machine was fitted to."""
    return sorted({row.network.partition("/")[0] for row in table.validation.rows})
