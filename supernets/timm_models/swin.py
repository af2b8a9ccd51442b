"""Swin Transformer and its variants that timm builds on ``SwinTransformer``.

Source of the networks: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV
2021, arXiv 2103.14030. Every stage has a width and a depth of its own; windows and the input side are fixed, since
relative positions and masks belong to one window on one grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from supernets.timm_models.parts import (
    Adapter,
    Elastic,
    Part,
    count_values,
    hidden_values,
    narrow_heads,
    shell,
    width_values,
)
from supernets.timm_models.plain import HEADS_FOLLOW
from supernets.timm_models.tables import AxesTable, NotElastic

EMBED, IN_EMBED = "embed", "in_embed"
MERGED = f"(quarter {IN_EMBED})"
"""Channels of four neighbours, which a step between stages puts together."""


def run_stem(model: Any, x_BCHW: Tensor) -> Tensor:
    """Images to a map ``(B, H, W, C)``."""
    map_BHWC: Tensor = model.forward_features(x_BCHW)
    return map_BHWC


def run_head(model: Any, x_BHWC: Tensor) -> Tensor:
    """The last stage's map to logits."""
    logits_BK: Tensor = model.forward_head(model.norm(x_BHWC))
    return logits_BK


class SwinAdapter(Adapter):
    """Chains of ``timm.models.swin_transformer.SwinTransformer``."""

    family = "swin_transformer"
    model_class = "timm.models.swin_transformer.SwinTransformer"
    oldest_timm = "1.0.31"  # before, windows at other sides of the image had other sizes

    def parts(self, model: Any) -> list[Part]:
        """Stem, a step and the blocks of every stage, head.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        return windowed_chain(model, step_norm=MERGED)


def windowed_chain(model: Any, step_norm: str) -> list[Part]:
    """The parts of a model of stages that attend in windows: a stem, a step and the blocks of every stage, a head.

    Args:
        model: With ``patch_embed``, ``layers``, ``norm`` and ``head``; maps are ``(B, H, W, C)``.
        step_norm: Axes of the norm in a step between stages.

    Raises:
        NotElastic: The model has parts without named axes.
    """
    stages = [[_describe(block) for block in stage.blocks] for stage in model.layers]
    widths = [_stage_widths(index, tables[0]) for index, tables in enumerate(stages)]
    stem = AxesTable(shell(model, ("patch_embed",), run_stem, layers=nn.Sequential()))
    stem.sizes[EMBED] = widths[0].values[-1]
    stem.linear("patch_embed.proj", EMBED, ".")
    stem.norm("patch_embed.norm", EMBED)
    parts = [Part("stem", stem, {EMBED: widths[0]}, ". . .")]
    for index, stage in enumerate(model.layers):
        if not isinstance(stage.downsample, nn.Identity):
            name = f"layers.{index}.downsample"
            table = _step(stage.downsample, widths[index - 1].values[-1], widths[index].values[-1], step_norm)
            axes = {IN_EMBED: widths[index - 1], EMBED: widths[index]}
            parts.append(Part(name, table, axes, ". . in_embed", own_path=name))
        parts += [_block(index, number, table, widths[index]) for number, table in enumerate(stages[index])]
    head = AxesTable(shell(model, ("norm", "head"), run_head, layers=nn.Sequential()))
    head.sizes[EMBED] = widths[-1].values[-1]
    head.norm("norm", EMBED)
    head.linear("head.fc", ".", EMBED)
    head.feature_width(EMBED)
    notes = (*((HEADS_FOLLOW,) if stages[0][0].ties else ()), *dict.fromkeys(stages[0][0].notes))
    parts.append(Part("head", head, {EMBED: widths[-1]}, ". . embed", notes=notes))
    for part in parts:
        part.table.check()
    return parts


def _stage_widths(index: int, table: AxesTable) -> Elastic:
    width = table.sizes[EMBED]
    of_head = width // table.sizes["head"]
    return Elastic(f"layers.{index}.embed", width_values(width, of_head, finest=of_head if table.ties else 8))


def _step(downsample: Any, before: int, after: int, norm: str) -> AxesTable:
    if type(downsample).__name__ != "PatchMerging":
        raise NotElastic(f"its steps between stages are `{type(downsample).__name__}`s")
    table = AxesTable(downsample, sizes={IN_EMBED: before, EMBED: after, "quarter": 4})
    table.norm("norm", norm)
    table.linear("reduction", EMBED, MERGED)
    return table


def _describe(block: nn.Module) -> AxesTable:
    table = AxesTable(block, sizes={EMBED: int(block.get_submodule("norm1").get_parameter("weight").shape[0])})
    for norm in ("norm1", "norm2"):
        table.norm(norm, EMBED)
    table.attention("attn", EMBED)
    table.feed_forward("mlp", EMBED)
    return table


def _block(stage: int, number: int, table: AxesTable, widths: Elastic) -> Part:
    name = f"layers.{stage}.blocks.{number}"
    elastic = {EMBED: widths}
    if "head" not in table.ties:
        elastic["head"] = Elastic(f"{name}.heads", count_values(table.sizes["head"]))
    elastic["hidden"] = Elastic(f"{name}.hidden", hidden_values(table.sizes["hidden"]))
    elastic |= narrow_heads(name, table)
    return Part(name, table, elastic, ". . embed", removable=f"layers.{stage}.depth", own_path=name)
