"""The chosen network stage by stage: what the report's table of it shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas.records.network import NetworkRecord
from search_spaces import Architecture, OpGraph, get_space
from search_spaces.errors import SearchSpaceError
from search_spaces.graph import Op, Shape

SHAPE_CHOICES = ("width", "depth")
AGREEMENT = 0.005
"""Relative difference between the run's latency and the present table's up to which they count as the same."""


@dataclass(frozen=True)
class StageRow:
    """One stage of a network.

    Attributes:
        depth: Its blocks in words, for example ``3 + entry``.
        extent: Extent of its output: ``16 x 16`` pixels, ``197 tokens``, or nothing behind the pooling.
        choices: The remaining settings of the stage.
        ms: Predicted latency; None where no table answers for it.
    """

    name: str
    depth: str
    width: int
    extent: str
    choices: str
    macs: int
    params: int
    ms: float | None = None


@dataclass(frozen=True)
class StageTable:
    """The stages of one network; ``rest_ms`` is the part of its latency that belongs to no stage."""

    rows: tuple[StageRow, ...]
    input_shape: Shape
    rest_ms: float | None = None


def stage_table(network: NetworkRecord, classes: int | None, target: str) -> StageTable | None:
    """Lower a network of the run to its stages; None where its space is not installed here or has changed since.

    Args:
        network: The network.
        classes: Number of classes of the run; None takes the space's own.
        target: The run's target, whose table prices the stages where it still gives the network's recorded latency.
    """
    try:
        space = get_space(network.architecture.space, classes=classes)
        architecture = space.parse(network.architecture.to_dict())
    except SearchSpaceError:
        return None
    graph = space.lower(architecture)
    if (graph.params, graph.macs) != (network.params, network.macs):
        return None
    latency_ms = network.latency[target].ms if target in network.latency else None
    groups = [
        (stage, tuple(blocks)) for stage, blocks in itertools.groupby(graph.blocks, lambda block: _stage_of(block[0]))
    ]
    stage_ms = _stage_latencies(graph, [blocks for _, blocks in groups], target, latency_ms)
    rows = tuple(
        _row(stage, blocks, choices_in_words(architecture), None if stage_ms is None else stage_ms[position])
        for position, (stage, blocks) in enumerate(groups)
    )
    rest = None if stage_ms is None or latency_ms is None else max(latency_ms - sum(stage_ms), 0.0)
    return StageTable(rows, space.input_shape(dict(architecture.settings)), rest)


def choices_in_words(architecture: Architecture) -> dict[str, str]:
    """What a network chose, by choice; codes for kinds where its space is not installed here or has changed since."""
    try:
        return get_space(architecture.space).labels(architecture)
    except (SearchSpaceError, KeyError, ValueError):
        return {name: str(value) for name, value in architecture.settings}


def describe_choices(choices: Mapping[str, str]) -> list[str]:
    """A line of words per stage, for example ``C1: width 24, depth 3, kernel 5``."""
    stages: dict[str, list[str]] = {}
    for name, value in choices.items():
        stage, _, setting = name.rpartition(".")
        stages.setdefault(stage, []).append(f"{_words(setting)} {value}")
    return [f"{stage}: {', '.join(settings)}" if stage else ", ".join(settings) for stage, settings in stages.items()]


def _stage_of(block: str) -> str:
    return block.partition(".")[0]


def _row(
    stage: str, blocks: Sequence[tuple[str, tuple[Op, ...]]], choices: Mapping[str, str], ms: float | None
) -> StageRow:
    parts = [name.partition(".")[2] for name, _ in blocks]
    numbers = {part.rpartition(".")[2] for part in parts if part.rpartition(".")[2].isdigit()}
    numbered = len(numbers)  # a layer can be several blocks
    others = [_words(part) for part in parts if part and part.rpartition(".")[2] not in numbers]
    depth = " + ".join([str(numbered or 1), *others]) if numbered else str(len(blocks))
    ops = [op for _, block in blocks for op in block]
    shape = ops[-1].output_shape if ops else ()
    prefix = f"{stage}."
    settings = [
        f"{_words(name[len(prefix) :])} {value}"
        for name, value in choices.items()
        if name.startswith(prefix) and name[len(prefix) :] not in SHAPE_CHOICES
    ]
    return StageRow(
        name=stage,
        depth=depth,
        width=shape[0] if len(shape) in (1, 3) else shape[-1] if shape else 0,
        extent=_extent(shape),
        choices=", ".join(settings),
        macs=sum(op.macs for op in ops),
        params=sum(op.params for op in ops),
        ms=ms,
    )


def _extent(shape: Shape) -> str:
    if len(shape) == 3:
        return f"{shape[1]} x {shape[2]}"
    return f"{shape[0]} tokens" if len(shape) == 2 else ""


def _words(name: str) -> str:
    return name.replace("_", " ").replace(".", " ")


def _stage_latencies(
    graph: OpGraph, stages: Sequence[Sequence[tuple[str, tuple[Op, ...]]]], target: str, latency_ms: float | None
) -> list[float] | None:
    if latency_ms is None:
        return None
    from latency_tables.errors import LatencyError
    from latency_tables.predictor import LatencyPredictor
    from latency_tables.targets import load_target

    try:
        table = load_target(target)
        predictor = LatencyPredictor(table)
        if abs(predictor.graph(graph).ms - latency_ms) > AGREEMENT * latency_ms:
            return None  # the table has been rebuilt since the run
        return [predictor.graph(OpGraph(blocks, graph.source_shape)).ms - table.overhead_ms for blocks in stages]
    except (LatencyError, SearchSpaceError):
        return None
