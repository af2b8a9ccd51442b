"""BEiT and BEiT v2.

Source of the networks: Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022, arXiv 2106.08254.
"""

from __future__ import annotations

from typing import Any

from supernets.timm_models.parts import Adapter, Part
from supernets.timm_models.plain import describe_scaled_block, plain_chain
from supernets.timm_models.tables import NotElastic


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
        return plain_chain(model, [describe_scaled_block(block) for block in model.blocks])
