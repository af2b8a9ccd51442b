"""What could be searched inside a timm model, and what it would cost on devices, before anything is trained.

Three networks stand for the space: the smallest, the middle and the largest, which is the model itself. Each distinct
part of them is traced once, so the answer takes seconds where the tables of a whole search take more.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from latency_tables.evidence import group_of
from latency_tables.predictor import LatencyPredictor
from latency_tables.targets import LOCAL, load_target, provenance_line, target_names
from nas.errors import UsageError
from nas.records.network import NamedRecord
from search_spaces import Architecture, Op, OpGraph, get_space
from search_spaces.timm_models import PREFIX, TimmBlock, TimmSpace

ALL = "all"
DEFAULT_TARGET = "pixel6"
MEMBERS = ("smallest", "middle", "largest")


@dataclass(frozen=True)
class Axis:
    """What is searched under one name, in every part of the model that has it.

    Attributes:
        name: For example ``depth`` or ``heads``.
        places: Number of choices; one per block, or one for the whole model.
        values: Candidate values of each; those of the first, where places differ.
    """

    name: str
    places: int
    values: tuple[int, ...]


@dataclass(frozen=True)
class ModelProfile:
    """What could be searched inside a model.

    Attributes:
        model: As it was asked for.
        family: Adapter that knows the model.
        encodings: Size of the space: an upper bound on its number of networks.
        networks: The smallest, the middle and the largest.
        axes: What is searched.
        fixed: What is not, and why, in words.
        limits: By target: the limit on its latency in milliseconds.
        can_be_met: By target: whether the smallest network stays within the limit with the upper end of its interval;
            None where the table has no evidence for it.
        group: Group of networks whose measurements are evidence for the model's, for the table of this machine.
        sources: What the predictions rest on, a line per target.
    """

    model: str
    family: str
    encodings: int
    networks: tuple[NamedRecord, ...]
    axes: tuple[Axis, ...]
    fixed: tuple[str, ...]
    limits: dict[str, float]
    can_be_met: dict[str, bool | None]
    group: str
    sources: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {"schema": 1, **asdict(self), "networks": [network.to_dict() for network in self.networks]}


def profile_model(
    model: str,
    targets: Sequence[str] = (),
    limit_ms: float | None = None,
    limits: dict[str, float] | None = None,
    classes: int | None = None,
) -> ModelProfile:
    """What could be searched inside a timm model; nothing is downloaded, trained or written.

    Args:
        model: Name of the model, ``NAME`` or ``NAME?argument=value``.
        targets: Devices whose latency is predicted; ``all`` for every one that has a table. By default those of
            ``limits``, or else ``pixel6`` and this machine where it has a table.
        limit_ms: Limit on the latency on the first target, in milliseconds.
        limits: Further limits on the latency by target, in milliseconds.
        classes: Number of classes to tell apart; None takes the model's own.

    Raises:
        UnknownNameError: There is no such model or target.
        TimmModelError: The model cannot be made elastic; the message says why.
        TableMissingError: A target has no latency table yet.
    """
    chosen = dict(limits or {})
    names = _targets([*targets, *(name for name in chosen if name not in targets)])
    if limit_ms is not None:
        if names[0] in chosen:
            raise UsageError(f"two limits for `{names[0]}`: {limit_ms:g} ms and {chosen[names[0]]:g} ms")
        chosen = {names[0]: limit_ms, **chosen}
    tables = {name: load_target(name) for name in names}
    space = get_space(f"{PREFIX}:{model.removeprefix(f'{PREFIX}:')}", classes)
    assert isinstance(space, TimmSpace)
    predictors = {name: LatencyPredictor(table) for name, table in tables.items()}
    networks = tuple(_profiled(space, name, predictors) for name in MEMBERS)
    smallest = networks[0].latency
    return ModelProfile(
        model=space.outline.reference.text,
        family=space.outline.family,
        encodings=space.encodings,
        networks=networks,
        axes=tuple(_axes(space)),
        fixed=tuple(dict.fromkeys(space.outline.fixed)),
        limits=chosen,
        can_be_met={name: smallest[name].is_within(limit) for name, limit in chosen.items()},
        group=group_of(space),
        sources=tuple(provenance_line(table) for table in tables.values()),
    )


def _targets(asked: Sequence[str]) -> list[str]:
    """The targets by name, once each."""
    if ALL not in asked:
        return list(dict.fromkeys(asked)) or [DEFAULT_TARGET, *([LOCAL] if _has_local() else [])]
    known = [info.name for info in target_names() if info.table is not None and not info.alias_of]
    return list(dict.fromkeys([*(name for name in asked if name != ALL), *known]))


def _has_local() -> bool:
    return any(info.name == LOCAL and info.table is not None for info in target_names())


def _profiled(space: TimmSpace, name: str, predictors: dict[str, LatencyPredictor]) -> NamedRecord:
    architecture = space.find(name)
    graph = _lowered(space, architecture)
    latency = {target: predictor.graph(graph, group_of(space)) for target, predictor in predictors.items()}
    costs = {"params": graph.params, "macs": graph.macs}
    return NamedRecord(name=name, architecture=architecture, costs=costs, latency=latency)


def _lowered(space: TimmSpace, architecture: Architecture) -> OpGraph:
    """The op graph, as ``space.lower`` gives it; only parts of this network are traced, not those of a whole table."""
    known: dict[TimmBlock, tuple[Op, ...]] = {}
    blocks = []
    for name, block in space.blocks(architecture):
        assert isinstance(block, TimmBlock)
        if block not in known:
            known[block] = () if block.does_nothing else _traced(block)
        blocks.append((name, known[block]))
    return OpGraph(blocks, space.input_shape(dict(architecture.settings)))


def _traced(block: TimmBlock) -> tuple[Op, ...]:
    from latency_tables.trace import trace
    from supernets.timm_models import chain_of

    chain, sizes = chain_of(block.model, block.side, block.classes), dict(block.sizes)
    table = chain.parts[block.part].table
    module = table.resize(copy.deepcopy(table.module), sizes).to("meta")
    graph = trace(module, chain.flow_shape(block.part, sizes), f"{block.model}: {block.part}")
    return graph.blocks[0][1]


def _axes(space: TimmSpace) -> Iterator[Axis]:
    """What is searched, choices of the same kind in one."""
    kinds: dict[str, list[tuple[int, ...]]] = {}
    for choice in space.choices:
        if len(choice.values) > 1:
            kinds.setdefault(choice.name.rpartition(".")[2], []).append(choice.values)
    for name, values in kinds.items():
        yield Axis({"side": "image side", "r": "merged tokens"}.get(name, name), len(values), values[0])
