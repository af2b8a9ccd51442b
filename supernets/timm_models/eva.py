"""EVA, EVA-02, the Perception Encoder, DINOv3 and other towers with rotary positions that timm builds on `Eva`.

Source of the networks: Fang et al., "EVA-02: A Visual Representation for Neon Genesis", Image and Vision Computing
2024, arXiv 2303.11331; Simeoni et al., "DINOv3", 2025, arXiv 2508.10104.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from supernets.timm_models.parts import Adapter, Part
from supernets.timm_models.plain import EMBED, plain_chain
from supernets.timm_models.tables import AxesTable, NotElastic


class EvaAdapter(Adapter):
    """Chains of ``timm.models.eva.Eva``."""

    family = "eva"
    model_class = "timm.models.eva.Eva"
    any_side = True

    def parts(self, model: Any) -> list[Part]:
        """Stem, blocks, head.

        Raises:
            NotElastic: Rotary positions are learned by all blocks together, or a block has parts without named axes.
        """
        if getattr(model, "rope_mixed", False):
            raise NotElastic("its rotary positions are learned in one tensor for all blocks and heads together")
        rope = None
        if model.rope is not None:
            model.rope.eval()  # without the random coordinates of some pretraining recipes
            is_cached = getattr(model.rope, "feat_shape", None) is not None and not model.dynamic_img_size
            with torch.device("cpu"):
                rope = model.rope.get_embed(shape=None if is_cached else list(model.patch_embed.grid_size))
        blocks = [_describe(_with_positions(block, rope)) for block in model.blocks]
        return plain_chain(model, blocks)


def _describe(block: nn.Module) -> AxesTable:
    table = AxesTable(block, sizes={EMBED: int(block.get_submodule("norm1").get_parameter("weight").shape[0])})
    for name in ("norm1", "norm2"):
        table.norm(name, EMBED)
    for name in ("gamma_1", "gamma_2"):
        if hasattr(block, name):
            table.tensor(name, EMBED)
    table.attention("attn", EMBED)
    table.feed_forward("mlp", EMBED)
    return table


def _with_positions(block: nn.Module, rope: Tensor | None) -> nn.Module:
    """The block as a module of one tensor: rotary positions, a constant of the grid, are its own."""
    if rope is not None:
        block.register_buffer("rotary_positions", rope.detach(), persistent=False)
        block.__class__ = _class_with_positions(type(block))  # type: ignore[arg-type]
    return block


@cache
def _class_with_positions(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, x_BNC: Tensor) -> Tensor:
        tokens_BNC: Tensor = base.forward(self, x_BNC, rope=self.rotary_positions)
        return tokens_BNC

    return type(f"{base.__name__}WithPositions", (base,), {"forward": forward})
