"""XCiT: attention between channels, a local convolution, then a few blocks for the class token.

Source of the networks: El-Nouby et al., "XCiT: Cross-Covariance Image Transformers", NeurIPS 2021, arXiv 2106.09681.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from supernets.timm_models.parts import Adapter, Part, shell
from supernets.timm_models.plain import EMBED, HEAD, describe_class_head, plain_chain, run_head
from supernets.timm_models.tables import AxesTable, NotElastic

CLASS_BLOCKS = "blocks of the class token: they keep their number and hidden units"
STEM = "convolutions in front of the last one of the stem: they keep their channels"


class XcitAdapter(Adapter):
    """Chains of ``timm.models.xcit.Xcit``; the blocks of the class token belong to the head and keep their number."""

    family = "xcit"
    model_class = "timm.models.xcit.Xcit"

    def parts(self, model: Any) -> list[Part]:
        """Stem, blocks, head with the blocks of the class token.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        size = model.patch_embed.img_size
        side = (size if isinstance(size, int) else size[0]) // model.patch_embed.patch_size
        blocks = [_describe(_on_grid(block, side)) for block in model.blocks]
        return plain_chain(model, blocks, stem=_stem(model), head=_head(model), notes=(STEM, CLASS_BLOCKS))


def _run_stem(model: Any, x_BCHW: Tensor) -> Tensor:
    x_BNC, (height, width) = model.patch_embed(x_BCHW)
    if model.pos_embed is not None:
        positions_BCHW = model.pos_embed(x_BNC.shape[0], height, width)
        x_BNC = x_BNC + positions_BCHW.reshape(x_BNC.shape[0], -1, x_BNC.shape[1]).permute(0, 2, 1)
    tokens_BNC: Tensor = model.pos_drop(x_BNC)
    return tokens_BNC


def _run_head(model: Any, x_BNC: Tensor) -> Tensor:
    tokens_BNC = torch.cat((model.cls_token.expand(x_BNC.shape[0], -1, -1), x_BNC), dim=1)
    for block in model.cls_attn_blocks:
        tokens_BNC = block(tokens_BNC)
    return run_head(model, tokens_BNC)


def _stem(model: Any) -> AxesTable:
    module = shell(model, ("patch_embed", "pos_embed", "pos_drop"), _run_stem)
    table = AxesTable(module, sizes={EMBED: int(model.embed_dim)})
    layers = model.patch_embed.proj
    last = max(number for number, layer in enumerate(layers) if isinstance(layer, nn.Sequential))
    table.static("patch_embed.proj")
    table.linear(f"patch_embed.proj.{last}.0", EMBED, ".")
    table.norm(f"patch_embed.proj.{last}.1", EMBED)
    if model.pos_embed is not None:
        table.linear("pos_embed.token_projection", EMBED, ".")
    return table


def _head(model: Any) -> AxesTable:
    module = shell(model, (*HEAD, "cls_token", "cls_attn_blocks"), _run_head)
    return describe_class_head(module, int(model.embed_dim), "cls_attn_blocks", ("gamma1", "gamma2"))


def _describe(block: nn.Module) -> AxesTable:
    table = AxesTable(block, sizes={EMBED: int(block.get_submodule("norm1").get_parameter("weight").shape[0])})
    for name in ("norm1", "norm2", "norm3"):
        table.norm(name, EMBED)
    for name in ("gamma1", "gamma2", "gamma3"):
        table.tensor(name, EMBED)
    table.attention("attn", EMBED)
    for name in ("conv1", "conv2"):
        table.depthwise(f"local_mp.{name}", EMBED)
    table.norm("local_mp.bn", EMBED)
    table.feed_forward("mlp", EMBED)
    if table.module.get_submodule("local_mp.conv1").groups != table.sizes[EMBED]:
        raise NotElastic("its local convolutions are not depthwise")
    return table


def _on_grid(block: nn.Module, side: int) -> nn.Module:
    """The block as a module of one tensor: the sides of the grid are its own."""
    block.grid_side = side  # type: ignore[assignment]
    block.__class__ = _class_on_grid(type(block))  # type: ignore[arg-type]
    return block


@cache
def _class_on_grid(base: type[nn.Module]) -> type[nn.Module]:
    def forward(self: Any, x_BNC: Tensor) -> Tensor:
        tokens_BNC: Tensor = base.forward(self, x_BNC, self.grid_side, self.grid_side)
        return tokens_BNC

    return type(f"{base.__name__}OnGrid", (base,), {"forward": forward})
