"""VisionTransformer and what is built on it: ViT, DeiT, DeiT-3, DINO, towers of CLIP and SigLIP, hybrids, ViTamin.

Source of the networks: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale", ICLR 2021, arXiv 2010.11929; Touvron et al., "Training data-efficient image transformers & distillation through
attention", ICML 2021, arXiv 2012.12877, and "DeiT III: Revenge of the ViT", ECCV 2022, arXiv 2204.07118; Chen et al.,
"ViTamin: Designing Scalable Vision Models in the Vision-Language Era", CVPR 2024, arXiv 2404.02132.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from supernets.timm_models.parts import Adapter, Part
from supernets.timm_models.plain import EMBED, plain_chain
from supernets.timm_models.tables import AxesTable, NotElastic


class VisionTransformerAdapter(Adapter):
    """Chains of ``timm.models.vision_transformer.VisionTransformer`` and its subclasses."""

    family = "vision_transformer"
    model_class = "timm.models.vision_transformer.VisionTransformer"
    any_side = True

    def parts(self, model: Any) -> list[Part]:
        """Stem, blocks, head.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        return plain_chain(model, [describe_block(block) for block in model.blocks], merges=True)


def describe_block(block: nn.Module) -> AxesTable:
    """The axes of a pre-norm, post-norm or parallel block.

    Raises:
        NotElastic: The block is of another kind.
    """
    kind = type(block).__name__
    table = AxesTable(block)
    if kind == "ParallelThingsBlock":
        table.sizes[EMBED] = _width(block.get_submodule("attns.0.norm"))
        for number in range(len(block.get_submodule("attns"))):  # type: ignore[arg-type]
            for path, layer in (("attns", "attn"), ("ffns", "mlp")):
                table.norm(f"{path}.{number}.norm", EMBED)
                table.scale(f"{path}.{number}.ls", EMBED)
                if layer == "attn":
                    table.attention(f"{path}.{number}.attn", EMBED)
                else:
                    table.feed_forward(f"{path}.{number}.mlp", EMBED)
        return table
    if kind not in ("Block", "ResPostBlock", "RelPosBlock", "ResPostRelPosBlock"):
        raise NotElastic(f"its blocks are `{kind}`s, whose fused projections have no named axes")
    table.sizes[EMBED] = _width(block.get_submodule("norm1"))
    for name in ("norm1", "norm2"):
        table.norm(name, EMBED)
    for name in ("ls1", "ls2"):
        if hasattr(block, name):
            table.scale(name, EMBED)
    table.attention("attn", EMBED)
    table.feed_forward("mlp", EMBED)
    return table


def _width(norm: nn.Module) -> int:
    return int(norm.get_parameter("weight").shape[0])
