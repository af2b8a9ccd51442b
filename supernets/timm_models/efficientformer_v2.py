"""EfficientFormer v2: convolutions throughout, attention that mixes its heads in the late blocks and in the last step.

Source of the networks: Li et al., "Rethinking Vision Transformers for MobileNet Size and Speed", ICCV 2023, arXiv
2212.08059. The input side is fixed, since biases of the attention belong to one grid.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from supernets.timm_models.biased_attention import HEAD, HEAD_WIDTHS, KEYS, VALUES, describe_heads
from supernets.timm_models.convolutions import convolution_norm
from supernets.timm_models.efficientformer import describe_head
from supernets.timm_models.parts import Adapter, Part, shell
from supernets.timm_models.plain import run_stem
from supernets.timm_models.staged import EMBED, HIDDEN, IN_EMBED, stage_widths, staged_chain
from supernets.timm_models.tables import AxesTable


class EfficientFormerV2Adapter(Adapter):
    """Chains of ``timm.models.efficientformer_v2.EfficientFormerV2``."""

    family = "efficientformer_v2"
    model_class = "timm.models.efficientformer_v2.EfficientFormerV2"

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
            head=describe_head(model),
            takes_tokens=lambda module: False,
            notes=(HEAD_WIDTHS,),
        )


def _stem(model: Any) -> AxesTable:
    module = shell(model, ("stem",), run_stem, stages=nn.Sequential())
    table = AxesTable(module, sizes={EMBED: stage_widths(model)[0], HIDDEN: model.stem.conv1.conv.out_channels})
    convolution_norm(table, "stem.conv1", HIDDEN, ".")
    convolution_norm(table, "stem.conv2", EMBED, HIDDEN)
    return table


def _step(step: Any, before: int, after: int) -> AxesTable:
    table = AxesTable(step, sizes={IN_EMBED: before, EMBED: after})
    convolution_norm(table, "conv", EMBED, IN_EMBED)
    if step.attn is not None:
        table.depthwise("attn.q.local", IN_EMBED)
        _attention(table, "attn", "attn.q.proj", IN_EMBED)
        table.attribute("attn", out_dim=EMBED)
    return table


def _block(block: Any, width: int) -> AxesTable:
    table = AxesTable(block, sizes={EMBED: width, HIDDEN: block.mlp.fc1.conv.out_channels})
    if block.token_mixer is not None:
        _depthwise_norm(table, "token_mixer.stride_conv", EMBED)
        _attention(table, "token_mixer", "token_mixer.q", EMBED)
        for name in ("talking_head1", "talking_head2"):
            table.linear(f"token_mixer.{name}", HEAD, HEAD)
    for name in ("ls1", "ls2"):
        table.scale(name, EMBED)
    convolution_norm(table, "mlp.fc1", HIDDEN, EMBED)
    _depthwise_norm(table, "mlp.mid", HIDDEN)
    convolution_norm(table, "mlp.fc2", EMBED, HIDDEN)
    return table


def _attention(table: AxesTable, path: str, queries: str, inputs: str) -> None:
    describe_heads(table, path)
    convolution_norm(table, queries, KEYS, inputs)
    convolution_norm(table, f"{path}.k", KEYS, inputs)
    convolution_norm(table, f"{path}.v", VALUES, inputs)
    _depthwise_norm(table, f"{path}.v_local", VALUES)
    convolution_norm(table, f"{path}.proj", EMBED, VALUES)


def _depthwise_norm(table: AxesTable, path: str, channels: str) -> None:
    table.depthwise(f"{path}.conv", channels)
    table.norm(f"{path}.bn", channels)
