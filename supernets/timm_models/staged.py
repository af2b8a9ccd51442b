"""Models of stages, each with a width and a depth of its own: a stem, steps between stages, blocks, a head.

An adapter describes stem, steps, blocks and head; what can be searched follows from the axes that they have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import gcd
from typing import Any

from torch import nn

from supernets.timm_models.parts import Elastic, Part, count_values, hidden_values, width_values
from supernets.timm_models.tables import AxesTable

EMBED, IN_EMBED, HIDDEN = "embed", "in_embed", "hidden"
WIDTH_STEPS = 8, 32
"""Widths of a stage are multiples of the largest power of two between these that divides its own."""


def stage_widths(model: Any) -> list[int]:
    """Channels of every stage of a model that says so in timm's ``feature_info``."""
    return [int(stage["num_chs"]) for stage in model.feature_info]


def staged_chain(
    model: Any,
    *,
    stem: AxesTable,
    describe_step: Callable[[Any, int, int], AxesTable],
    describe_block: Callable[[Any, int], AxesTable],
    head: AxesTable,
    takes_tokens: Callable[[nn.Module], bool],
    notes: Sequence[str] = (),
) -> list[Part]:
    """The parts of a model of stages.

    Blocks without weights, which change the layout and no more, are in every network.

    Args:
        model: With ``feature_info`` and ``stages``, each with ``blocks`` and a ``downsample``, if only an identity.
        stem: With the axis ``embed``; like all others it may have ``head`` and ``hidden``.
        describe_step: From a step, the channels in front of it (axis ``in_embed``) and behind it (``embed``).
        describe_block: From a block and its channels.
        head: With the axis ``embed``.
        takes_tokens: Whether tokens ``(B, N, C)`` flow into a module; otherwise maps ``(B, C, H, W)`` do.
        notes: What is not elastic, in words.

    Raises:
        NotElastic: The model has parts without named axes.
    """

    def part(name: str, table: AxesTable, widths: Mapping[str, Elastic], removable: str = "") -> Part:
        entry = IN_EMBED if IN_EMBED in widths else EMBED
        flow = f". {entry}" if takes_tokens(table.module) else f"{entry} . ."
        return Part(name, table, _elastic(name, table, widths), flow, removable, own_path=name)

    widths = _widths(model)
    parts = [Part("stem", stem, _elastic("stem", stem, {EMBED: widths[0]}), ". . .")]
    for index, stage in enumerate(model.stages):
        before, own = widths[max(index - 1, 0)], widths[index]
        if _has_step(stage):
            table = describe_step(stage.downsample, before.values[-1], own.values[-1])
            parts.append(part(f"stages.{index}.downsample", table, {IN_EMBED: before, EMBED: own}))
        for number, block in enumerate(stage.blocks):
            table = describe_block(block, own.values[-1])
            removable = f"stages.{index}.depth" if table.axes else ""
            parts.append(part(f"stages.{index}.blocks.{number}", table, {EMBED: own}, removable))
    flow = ". embed" if takes_tokens(head.module) else "embed . ."
    parts.append(Part("head", head, {EMBED: widths[-1]}, flow, notes=tuple(notes)))
    for described in parts:
        described.table.check()
    return parts


def _widths(model: Any) -> list[Elastic]:
    """Widths of all stages; one without a step in front of it is as wide as the one before."""
    widths: list[Elastic] = []
    for index, (stage, width) in enumerate(zip(model.stages, stage_widths(model), strict=True)):
        is_first = not widths or _has_step(stage)
        step = max(WIDTH_STEPS[0], gcd(width, WIDTH_STEPS[1]))
        widths.append(Elastic(f"stages.{index}.{EMBED}", width_values(width, step)) if is_first else widths[-1])
    return widths


def _has_step(stage: Any) -> bool:
    return not isinstance(stage.downsample, nn.Identity)


def _elastic(name: str, table: AxesTable, widths: Mapping[str, Elastic]) -> dict[str, Elastic]:
    elastic = dict(widths)
    if "head" in table.sizes:
        elastic["head"] = Elastic(f"{name}.heads", count_values(table.sizes["head"]))
    if HIDDEN in table.sizes:
        elastic[HIDDEN] = Elastic(f"{name}.hidden", hidden_values(table.sizes[HIDDEN]))
    return elastic
