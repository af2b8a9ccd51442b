"""EfficientFormer: blocks that pool on maps, then blocks that attend to tokens.

Source of the networks: Li et al., "EfficientFormer: Vision Transformers at MobileNet Speed", NeurIPS 2022, arXiv
2206.01191. The input side is fixed: timm makes the biases of the attention for a grid of 7 x 7.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from supernets.timm_models.biased_attention import HEAD_WIDTHS, QUERIES_KEYS_VALUES, VALUES, describe_heads
from supernets.timm_models.parts import Adapter, Part, shell
from supernets.timm_models.plain import run_head, run_stem
from supernets.timm_models.staged import EMBED, HIDDEN, IN_EMBED, stage_widths, staged_chain
from supernets.timm_models.tables import AxesTable, NotElastic


class EfficientFormerAdapter(Adapter):
    """Chains of ``timm.models.efficientformer.EfficientFormer``."""

    family = "efficientformer"
    model_class = "timm.models.efficientformer.EfficientFormer"

    def parts(self, model: Any) -> list[Part]:
        """Stem, a step and the blocks of every stage, head; what flattens the map stands between two blocks.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        return staged_chain(
            model,
            stem=_stem(model),
            describe_step=_step,
            describe_block=_block,
            head=describe_head(model),
            takes_tokens=_takes_tokens,
            notes=(HEAD_WIDTHS,),
        )


def describe_head(model: Any) -> AxesTable:
    """A norm, and a classifier of its own for what is learned from a teacher."""
    module = shell(model, ("norm", "head_drop", "head", "head_dist"), run_head)
    table = AxesTable(module, sizes={EMBED: stage_widths(model)[-1]})
    table.norm("norm", EMBED)
    for name in ("head", "head_dist"):
        table.linear(name, ".", EMBED)
    table.feature_width(EMBED)
    return table


def _takes_tokens(module: nn.Module) -> bool:
    from timm.models.efficientformer import EfficientFormer, MetaBlock1d

    return isinstance(module, (MetaBlock1d, EfficientFormer))


def _stem(model: Any) -> AxesTable:
    module = shell(model, ("stem",), run_stem, stages=nn.Sequential())
    table = AxesTable(module, sizes={EMBED: stage_widths(model)[0], HIDDEN: model.stem.conv1.out_channels})
    table.linear("stem.conv1", HIDDEN, ".")
    table.norm("stem.norm1", HIDDEN)
    table.linear("stem.conv2", EMBED, HIDDEN)
    table.norm("stem.norm2", EMBED)
    return table


def _step(step: Any, before: int, after: int) -> AxesTable:
    table = AxesTable(step, sizes={IN_EMBED: before, EMBED: after})
    table.linear("conv", EMBED, IN_EMBED)
    table.norm("norm", EMBED)
    return table


def _block(block: Any, width: int) -> AxesTable:
    table = AxesTable(block, sizes={EMBED: width})
    kind = type(block).__name__
    if kind == "MetaBlock2d":
        _pooling(table, block)
    elif kind == "MetaBlock1d":
        _attending(table)
    elif kind != "Flat":
        raise NotElastic(f"its blocks are `{kind}`s")
    return table


def _pooling(table: AxesTable, block: Any) -> None:
    table.sizes[HIDDEN] = block.mlp.fc1.out_channels
    table.linear("mlp.fc1", HIDDEN, EMBED)
    table.norm("mlp.norm1", HIDDEN)
    table.linear("mlp.fc2", EMBED, HIDDEN)
    table.norm("mlp.norm2", EMBED)
    for name in ("ls1", "ls2"):
        table.scale(name, EMBED)


def _attending(table: AxesTable) -> None:
    for name in ("norm1", "norm2"):
        table.norm(name, EMBED)
    for name in ("ls1", "ls2"):
        table.scale(name, EMBED)
    describe_heads(table, "token_mixer")
    table.linear("token_mixer.qkv", QUERIES_KEYS_VALUES, EMBED)
    table.linear("token_mixer.proj", EMBED, VALUES)
    table.feed_forward("mlp", EMBED)
