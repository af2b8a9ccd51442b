"""Swin Transformer V2: cosine attention, norms behind the layers, relative positions from a small network.

Source of the networks: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution", CVPR 2022, arXiv
2111.09883. As in Swin every stage has a width and a depth of its own, and windows and the input side are fixed.
"""

from __future__ import annotations

from typing import Any

from supernets.timm_models.parts import Adapter, Part
from supernets.timm_models.swin import EMBED, windowed_chain


class SwinV2Adapter(Adapter):
    """Chains of ``timm.models.swin_transformer_v2.SwinTransformerV2``.

    The number of heads follows the width: timm's attention gives its heads back as wide as its input.
    """

    family = "swin_transformer_v2"
    model_class = "timm.models.swin_transformer_v2.SwinTransformerV2"

    def parts(self, model: Any) -> list[Part]:
        """Stem, a step and the blocks of every stage, head.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        return windowed_chain(model, step_norm=EMBED)
