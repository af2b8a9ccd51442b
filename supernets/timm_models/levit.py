"""LeViT, with linear layers or with convolutions: narrow keys, wide values, steps between stages that attend.

Source of the networks: Graham et al., "LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference", ICCV
2021, arXiv 2104.01136. Widths, heads, hidden units and the channels inside the stem are independent of each other; the
input side is fixed, since biases of the attention belong to one grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from supernets.timm_models.biased_attention import (
    HEAD_WIDTHS,
    KEYS,
    KEYS_VALUES,
    QUERIES_KEYS_VALUES,
    VALUES,
    describe_heads,
)
from supernets.timm_models.parts import Adapter, Part, shell
from supernets.timm_models.plain import run_stem
from supernets.timm_models.staged import EMBED, HIDDEN, IN_EMBED, stage_widths, staged_chain
from supernets.timm_models.tables import AxesTable, NotElastic


class LevitAdapter(Adapter):
    """Chains of ``timm.models.levit.Levit`` and of ``LevitDistilled``."""

    family = "levit"
    model_class = "timm.models.levit.Levit"

    def parts(self, model: Any) -> list[Part]:
        """Stem, a step and the blocks of every stage, head.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        return staged_chain(
            model,
            stem=_stem(model),
            describe_step=_step,
            describe_block=_block,
            head=_head(model),
            takes_tokens=lambda module: not model.use_conv,
            notes=(HEAD_WIDTHS,),
        )


def _run_head(model: Any, x: Tensor) -> Tensor:
    """Tokens or the map of the last stage to logits."""
    logits_BK: Tensor = model.forward_head(x)
    return logits_BK


def _stem(model: Any) -> AxesTable:
    """Convolutions of which each has twice the channels of the one before; those inside are searched together."""
    if type(model.stem).__name__ not in ("Stem8", "Stem16"):
        raise NotElastic(f"its stem is a `{type(model.stem).__name__}`")
    table = AxesTable(shell(model, ("stem",), run_stem, stages=nn.Sequential()), sizes={EMBED: stage_widths(model)[0]})
    layers = [name for name, _ in model.stem.named_children() if name.startswith("conv")]
    shares = [2**halvings for halvings in reversed(range(len(layers) - 1))]
    inside = [f"{HIDDEN}_{share}" if share > 1 else HIDDEN for share in shares]
    for name, axis, share in zip(layers, inside, shares, strict=False):
        table.sizes[axis] = model.stem.get_submodule(name).linear.out_channels
        if share > 1:
            table.ties[axis] = (HIDDEN, share)
    for name, outputs, inputs in zip(layers, [*inside, EMBED], [".", *inside], strict=True):
        _projection(table, f"stem.{name}", outputs, inputs)
    return table


def _step(step: Any, before: int, after: int) -> AxesTable:
    table = AxesTable(step, sizes={IN_EMBED: before, EMBED: after})
    describe_heads(table, "attn_downsample")
    _projection(table, "attn_downsample.kv", KEYS_VALUES, IN_EMBED)
    _projection(table, "attn_downsample.q.ln", KEYS, IN_EMBED)
    _projection(table, "attn_downsample.proj.ln", EMBED, VALUES)
    _feed_forward(table)
    return table


def _block(block: Any, width: int) -> AxesTable:
    table = AxesTable(block, sizes={EMBED: width})
    describe_heads(table, "attn")
    _projection(table, "attn.qkv", QUERIES_KEYS_VALUES, EMBED)
    _projection(table, "attn.proj.ln", EMBED, VALUES)
    _feed_forward(table)
    return table


def _head(model: Any) -> AxesTable:
    table = AxesTable(shell(model, ("head", "head_dist"), _run_head), sizes={EMBED: stage_widths(model)[-1]})
    for name in ("head", "head_dist"):
        table.norm(f"{name}.bn", EMBED)
        table.linear(f"{name}.linear", ".", EMBED)
    table.feature_width(EMBED)
    return table


def _feed_forward(table: AxesTable) -> None:
    table.sizes[HIDDEN] = int(table.module.get_submodule("mlp.ln1.bn").get_parameter("weight").shape[0])
    _projection(table, "mlp.ln1", HIDDEN, EMBED)
    _projection(table, "mlp.ln2", EMBED, HIDDEN)


def _projection(table: AxesTable, path: str, outputs: str, inputs: str) -> None:
    """A linear layer or convolution with its batch norm."""
    table.linear(f"{path}.linear", outputs, inputs)
    table.norm(f"{path}.bn", outputs)
