"""Vision transformers with relative positions in every block, and no absolute ones.

The networks are timm's own experiments (``vit_relpos_*``, ``vit_srelpos_*``), after Bao et al., "UniLMv2", ICML 2020,
arXiv 2002.12804, and Liu et al., "Swin Transformer V2", CVPR 2022, arXiv 2111.09883.
"""

from __future__ import annotations

from typing import Any

from supernets.timm_models.parts import Adapter, Part
from supernets.timm_models.plain import plain_chain
from supernets.timm_models.tables import NotElastic
from supernets.timm_models.vit import describe_block


class RelativePositionAdapter(Adapter):
    """Chains of ``VisionTransformerRelPos``; relative positions belong to one grid, so the input side is fixed."""

    family = "vision_transformer_relpos"
    model_class = "timm.models.vision_transformer_relpos.VisionTransformerRelPos"

    def parts(self, model: Any) -> list[Part]:
        """Stem, blocks, head.

        Raises:
            NotElastic: Relative positions are learned by all blocks together.
        """
        if model.shared_rel_pos is not None:
            raise NotElastic("its relative positions are learned in one table for all blocks together")
        return plain_chain(model, [describe_block(block) for block in model.blocks])
