"""CaiT: blocks with talking heads, then a few that only the class token runs through.

Source of the networks: Touvron et al., "Going deeper with Image Transformers", ICCV 2021, arXiv 2103.17239.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from supernets.timm_models.parts import Adapter, Part, shell
from supernets.timm_models.plain import (
    HEAD,
    describe_class_head,
    describe_scaled_block,
    describe_stem,
    plain_chain,
    run_head,
)
from supernets.timm_models.tables import AxesTable


class CaitAdapter(Adapter):
    """Chains of ``timm.models.cait.Cait``; the blocks of the class token belong to the head and keep their number."""

    family = "cait"
    model_class = "timm.models.cait.Cait"
    any_side = True

    def parts(self, model: Any) -> list[Part]:
        """Stem, blocks, head with the blocks of the class token.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        blocks = [describe_scaled_block(block) for block in model.blocks]
        return plain_chain(model, blocks, stem=_stem(model), head=_head(model), notes=(CLASS_BLOCKS,))


CLASS_BLOCKS = "blocks of the class token: they keep their number and hidden units"


def _stem(model: Any) -> AxesTable:
    table = describe_stem(model)
    table.module = shell(model, ("patch_embed", "pos_embed", "pos_drop"), _run_stem, blocks=nn.Sequential())
    del table.axes["cls_token"]  # it joins the tokens behind the blocks
    return table


def _run_stem(model: Any, x_BCHW: Tensor) -> Tensor:
    tokens_BNC: Tensor = model.pos_drop(model.patch_embed(x_BCHW) + model.pos_embed)
    return tokens_BNC


def _run_head(model: Any, x_BNC: Tensor) -> Tensor:
    return run_head(model, model.forward_cls(x_BNC))


def _head(model: Any) -> AxesTable:
    module = shell(model, (*HEAD, "cls_token", "blocks_token_only"), _run_head, blocks=nn.Sequential())
    return describe_class_head(module, int(model.embed_dim), "blocks_token_only", ("gamma_1", "gamma_2"))
