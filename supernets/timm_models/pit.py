"""PiT: a vision transformer whose stages pool their tokens, as convolutional networks do.

Source of the networks: Heo et al., "Rethinking Spatial Dimensions of Vision Transformers", ICCV 2021, arXiv 2103.16302.
Between two stages a convolution with a group per channel makes every channel into the same number of new ones. So there
is one width to search, that of the first stage, and what became of a channel comes and goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from supernets.timm_models.parts import Adapter, Elastic, Part, count_values, hidden_values, shell, width_values
from supernets.timm_models.plain import EMBED, HEAD, HEADS_FOLLOW, STEM, run_head, run_stem
from supernets.timm_models.tables import AxesTable

GRID = "grid"
WIDTHS = "width of later stages: it follows the first one's, as pooling makes a channel into a fixed number of new ones"


class PitAdapter(Adapter):
    """Chains of ``timm.models.pit.PoolingVisionTransformer``; tokens flow with the class tokens in front."""

    family = "pit"
    model_class = "timm.models.pit.PoolingVisionTransformer"
    any_side = True
    oldest_timm = "1.0.25"  # before, the second classifier of distilled models read another token

    def parts(self, model: Any) -> list[Part]:
        """Stem, the pooling in front of a stage and its blocks, head.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        sizes, words = _widths(model)
        stages = [
            [_block(block, sizes, axes) for block in stage.blocks]
            for stage, axes in zip(model.transformers, words, strict=True)
        ]
        of_head, is_tied = sizes[EMBED] // model.heads[0], bool(stages[0][0].ties)
        widths = width_values(sizes[EMBED], of_head, finest=of_head if is_tied else 8)
        embed = {EMBED: Elastic(EMBED, widths)}
        parts = [Part("stem", _stem(model, sizes), embed, ". . .")]
        side, before = model.patch_embed.height, words[0]
        for index, (stage, axes) in enumerate(zip(model.transformers, words, strict=True)):
            if stage.pool is not None:
                name = f"transformers.{index}.pool"
                table = _pool(_of_tokens(stage.pool, side, model.num_tokens), sizes, before, axes)
                parts.append(Part(name, table, embed, f". {before}", own_path=name))
                side, before = -(-side // stage.pool.conv.stride[0]), axes
            for number, table in enumerate(stages[index]):
                name = f"transformers.{index}.blocks.{number}"
                elastic = dict(embed)
                if not is_tied:
                    elastic["head"] = Elastic(f"{name}.heads", count_values(table.sizes["head"]))
                elastic["hidden"] = Elastic(f"{name}.hidden", hidden_values(table.sizes["hidden"]))
                depth = f"transformers.{index}.depth"
                parts.append(Part(name, table, elastic, f". {axes}", removable=depth, own_path=name))
        notes = (WIDTHS, HEADS_FOLLOW) if is_tied else (WIDTHS,)
        parts.append(Part("head", _head(model, sizes, before), embed, f". {before}", notes=notes))
        for part in parts:
            part.table.check()
        return parts


def _widths(model: Any) -> tuple[dict[str, int], list[str]]:
    """Sizes of the axes that make up widths, and for every stage those that make up its own."""
    channels = [base * heads for base, heads in zip(model.base_dims, model.heads, strict=True)]
    sizes, names = {EMBED: channels[0]}, [EMBED]
    words = [EMBED]
    for index in range(1, len(channels)):
        names.append(f"becomes{index}")
        sizes[names[-1]] = channels[index] // channels[index - 1]
        words.append(f"({' '.join(names)})")
    return sizes, words


class _Joined(nn.Module):
    """In place of the stages: the map and the class tokens go on as one sequence."""

    def forward(self, flow: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        map_BCHW, tokens_BTC = flow
        return map_BCHW, torch.cat((tokens_BTC, map_BCHW.flatten(2).transpose(1, 2)), dim=1)


def _stem(model: Any, sizes: Mapping[str, int]) -> AxesTable:
    table = AxesTable(shell(model, STEM, run_stem, transformers=_Joined()), sizes=dict(sizes))
    table.sizes[GRID] = model.patch_embed.height
    table.linear("patch_embed.conv", EMBED, ".")
    table.tensor("cls_token", ". . embed")
    table.tensor("pos_embed", f". embed {GRID}:resize {GRID}:resize")
    return table


def _pool(pool: nn.Module, sizes: Mapping[str, int], before: str, after: str) -> AxesTable:
    table = AxesTable(pool, sizes=dict(sizes))
    table.depthwise("conv", after)
    table.linear("fc", after, before)
    return table


def _block(block: nn.Module, sizes: Mapping[str, int], width: str) -> AxesTable:
    table = AxesTable(block, sizes=dict(sizes))
    for name in ("norm1", "norm2"):
        table.norm(name, width)
    table.attention("attn", width)
    table.feed_forward("mlp", width)
    return table


def _run_head(model: Any, x_BNC: Tensor) -> Tensor:
    return run_head(model, x_BNC[:, : model.num_tokens])


def _head(model: Any, sizes: Mapping[str, int], width: str) -> AxesTable:
    table = AxesTable(shell(model, HEAD, _run_head), sizes=dict(sizes))
    table.norm("norm", width)
    for name in ("head", "head_dist"):
        table.linear(name, ".", width)
    table.feature_width(width)
    return table


def _of_tokens(pool: nn.Module, side: int, class_tokens: int) -> nn.Module:
    """The pooling as a module of one tensor: the sides of the map and the number of class tokens are its own."""
    pool.grid_side, pool.class_tokens = side, class_tokens  # type: ignore[assignment]
    pool.__class__ = _class_of_tokens(type(pool))  # type: ignore[arg-type]
    return pool


@cache
def _class_of_tokens(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, x_BNC: Tensor) -> Tensor:
        tokens_BTC, grid_BNC = x_BNC[:, : self.class_tokens], x_BNC[:, self.class_tokens :]
        map_BCHW = grid_BNC.transpose(1, 2).reshape(x_BNC.shape[0], -1, self.grid_side, self.grid_side)
        map_BCHW, tokens_BTC = base.forward(self, map_BCHW, tokens_BTC)
        return torch.cat((tokens_BTC, map_BCHW.flatten(2).transpose(1, 2)), dim=1)

    return type(f"{base.__name__}OfTokens", (base,), {"forward": forward})
