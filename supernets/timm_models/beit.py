"""BEiT and BEiT v2.

Source of the networks: Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv 2106.08254.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from supernets.timm_models.parts import Adapter, Part
from supernets.timm_models.plain import EMBED, plain_chain
from supernets.timm_models.tables import AxesTable, NotElastic


class BeitAdapter(Adapter):
    """Chains of ``timm.models.beit.Beit``; relative positions belong to one grid, so the input side is fixed."""

    family = "beit"
    model_class = "timm.models.beit.Beit"

    def parts(self, model: Any) -> list[Part]:
        """Stem, blocks, head.

        Raises:
            NotElastic: Relative positions are learned by all blocks together.
        """
        if model.rel_pos_bias is not None:
            raise NotElastic("its relative positions are learned in one table for all blocks together")
        return plain_chain(model, [_describe(block) for block in model.blocks])


def _describe(block: nn.Module) -> AxesTable:
    table = AxesTable(block, sizes={EMBED: int(block.get_submodule("norm1").get_parameter("weight").shape[0])})
    for name in ("norm1", "norm2"):
        table.norm(name, EMBED)
    for name in ("gamma_1", "gamma_2"):
        table.tensor(name, EMBED)
    table.attention("attn", EMBED)
    table.feed_forward("mlp", EMBED)
    return table
