"""Swin Transformer and its variants that timm builds on ``SwinTransformer``.

Source of the networks: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV
2021, arXiv 2103.14030. Every stage has a width and a depth of its own; windows and the input side are fixed, since
relative positions and masks belong to one window on one grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from supernets.timm_models.parts import Elastic, Part, count_values, hidden_values, shell, width_values
from supernets.timm_models.tables import AxesTable, NotElastic

EMBED, IN_EMBED = "embed", "in_embed"


def run_stem(model: Any, x_BCHW: Tensor) -> Tensor:
    """Images to a map ``(B, H, W, C)``."""
    map_BHWC: Tensor = model.forward_features(x_BCHW)
    return map_BHWC


def run_head(model: Any, x_BHWC: Tensor) -> Tensor:
    """The last stage's map to logits."""
    logits_BK: Tensor = model.forward_head(model.norm(x_BHWC))
    return logits_BK


class SwinAdapter:
    """Chains of ``timm.models.swin_transformer.SwinTransformer``."""

    family = "swin_transformer"
    any_side = False

    def claims(self, model: nn.Module) -> bool:
        """Whether it is a SwinTransformer."""
        from timm.models.swin_transformer import SwinTransformer

        return isinstance(model, SwinTransformer)

    def parts(self, model: Any) -> list[Part]:
        """Stem, a step and the blocks of every stage, head.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        widths = [_stage_widths(index, stage) for index, stage in enumerate(model.layers)]
        stem = AxesTable(shell(model, ("patch_embed",), run_stem, layers=nn.Sequential()))
        stem.sizes[EMBED] = widths[0].values[-1]
        stem.linear("patch_embed.proj", EMBED, ".")
        stem.norm("patch_embed.norm", EMBED)
        parts = [Part("stem", stem, {EMBED: widths[0]}, ". . .")]
        for index, stage in enumerate(model.layers):
            if not isinstance(stage.downsample, nn.Identity):
                name = f"layers.{index}.downsample"
                table = _step(stage.downsample, widths[index - 1].values[-1], widths[index].values[-1])
                axes = {IN_EMBED: widths[index - 1], EMBED: widths[index]}
                parts.append(Part(name, table, axes, ". . in_embed", own_path=name))
            parts += [_block(index, number, block, widths[index]) for number, block in enumerate(stage.blocks)]
        head = AxesTable(shell(model, ("norm", "head"), run_head, layers=nn.Sequential()))
        head.sizes[EMBED] = widths[-1].values[-1]
        head.norm("norm", EMBED)
        head.linear("head.fc", ".", EMBED)
        parts.append(Part("head", head, {EMBED: widths[-1]}, ". . embed"))
        for part in parts:
            part.table.check()
        return parts


def _stage_widths(index: int, stage: Any) -> Elastic:
    attention = stage.blocks[0].attn
    width = int(attention.qkv.weight.shape[1])
    return Elastic(f"layers.{index}.embed", width_values(width, width // attention.num_heads))


def _step(downsample: Any, before: int, after: int) -> AxesTable:
    if type(downsample).__name__ != "PatchMerging":
        raise NotElastic(f"its steps between stages are `{type(downsample).__name__}`s")
    table = AxesTable(downsample, sizes={IN_EMBED: before, EMBED: after, "quarter": 4})
    table.norm("norm", f"(quarter {IN_EMBED})")
    table.linear("reduction", EMBED, f"(quarter {IN_EMBED})")
    return table


def _block(stage: int, number: int, block: nn.Module, widths: Elastic) -> Part:
    name = f"layers.{stage}.blocks.{number}"
    table = AxesTable(block, sizes={EMBED: widths.values[-1]})
    for norm in ("norm1", "norm2"):
        table.norm(norm, EMBED)
    table.attention("attn", EMBED)
    table.feed_forward("mlp", EMBED)
    elastic = {
        EMBED: widths,
        "head": Elastic(f"{name}.heads", count_values(table.sizes["head"])),
        "hidden": Elastic(f"{name}.hidden", hidden_values(table.sizes["hidden"])),
    }
    return Part(name, table, elastic, ". . embed", removable=f"layers.{stage}.depth", own_path=name)
