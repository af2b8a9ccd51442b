"""Names that other libraries give to the tensors of the same transformers, and what timm calls them.

Sources: the module names of transformers 4 (models vit, deit, beit, dinov2, dinov2_with_registers, dinov3_vit, clip,
siglip, swin, swinv2), of torchvision's `vision_transformer.py`, and of OpenAI's CLIP and OpenCLIP, whose renaming timm
does itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """How a library names the tensors of a transformer.

    Attributes:
        title: Whose names they are, in words.
        anchor: A name that every model of this layout has, by which it is known whatever stands in front of it.
        rules: ``(pattern, replacement)`` on names without what stands in front of them, all that match, in order; what
            becomes empty is left out.
    """

    title: str
    anchor: str
    rules: tuple[tuple[str, str], ...]

    def rename(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors by the names that timm, or its own conversion of a model's first release, expects."""
        named = {self._renamed(name): tensor for name, tensor in tensors.items()}
        named.pop("", None)
        named = _with_fused(named)
        if "cls_token" in named and named["cls_token"].ndim == 1:
            named["cls_token"] = named["cls_token"].reshape(1, 1, -1)
        if "pos_embed" in named and named["pos_embed"].ndim == 2:
            named["pos_embed"] = named["pos_embed"][None]
        if "register_tokens" in named:
            named.setdefault("mask_token", torch.zeros(1))  # by which timm knows DINOv2
        return named

    def _renamed(self, name: str) -> str:
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return name


def _with_fused(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value in one tensor; where keys have no bias those of query and value are apart, as in timm."""
    fused = dict(named)
    for name in named:
        if not name.endswith(("attn.query.weight", "attn.query.bias")):
            continue
        stem, _, kind = name.rpartition("query.")
        parts = {role: fused.pop(f"{stem}{role}.{kind}", None) for role in ("query", "key", "value")}
        query, key, value = parts.values()
        if query is not None and key is not None and value is not None:
            fused[f"{stem}qkv.{kind}"] = torch.cat([query, key, value])
        elif kind == "bias" and query is not None and value is not None:
            fused |= {f"{stem}q_bias": query, f"{stem}v_bias": value}
        else:
            fused |= {f"{stem}{role}.{kind}": tensor for role, tensor in parts.items() if tensor is not None}
    for name in [name for name in fused if name.startswith("attn_pool.in_proj_")]:
        kind, tensor = name.removeprefix("attn_pool.in_proj_"), fused.pop(name)
        width = len(tensor) // 3
        fused |= {f"attn_pool.q.{kind}": tensor[:width], f"attn_pool.kv.{kind}": tensor[width:]}
    return fused


_EMBEDDINGS = (
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.(position_embeddings|position_embedding\.weight)$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.(projection\.)?(weight|bias)$", r"patch_embed.proj.\2"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
)
_BLOCK = (
    (r"^(blocks\..*|layers\..*)\.layernorm_before\.", r"\1.norm1."),
    (r"^(blocks\..*|layers\..*)\.layernorm_after\.", r"\1.norm2."),
    (r"\.attention\.(?:attention|self)\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.(?:attention|self)\.", ".attn."),
    (r"\.attn\.relative_position_bias\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
    (r"\.attn\.continuous_position_bias_mlp\.", ".attn.cpb_mlp."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_([12])$", r".gamma_\1"),
    (r"\.mlp\.weights_in\.", ".mlp.w12."),
    (r"\.mlp\.weights_out\.", ".mlp.w3."),
)
_VIT = (
    *_EMBEDDINGS,
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    *_BLOCK,
    (r"^layernorm\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
)
_SWIN = (
    *_EMBEDDINGS,
    (r"^encoder\.layers\.", "layers."),
    *_BLOCK,
    (r"^layernorm\.", "norm."),
)
_TOWER = (
    *_EMBEDDINGS,
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\.self_attn\.q_proj\.", ".attn.query."),
    (r"\.self_attn\.k_proj\.", ".attn.key."),
    (r"\.self_attn\.v_proj\.", ".attn.value."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"^(blocks\..*)\.layer_norm([12])\.", r"\1.norm\2."),
    (r"^pre_lay(?:er|r)norm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.(in_proj_\w+)$", r"attn_pool.\1"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
_DINOV3 = (
    (r"^embeddings\.(mask_token)$", ""),
    (r"^embeddings\.register_tokens$", "reg_token"),
    *_EMBEDDINGS,
    (r"^(?:model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)
_TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_(weight|bias)$", r".attn.qkv.\1"),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(?:0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)
_OPENAI = ((r"^proj$", ""), (r"^(?=.)", "visual."))

FOREIGN = (
    Layout("Hugging Face's ViT, DeiT, BEiT or DINOv2", "encoder.layer.0.attention.attention.query.weight", _VIT),
    Layout("Hugging Face's CLIP or SigLIP", "encoder.layers.0.self_attn.q_proj.weight", _TOWER),
    Layout("Hugging Face's Swin", "encoder.layers.0.blocks.0.attention.self.query.weight", _SWIN),
    Layout("Hugging Face's DINOv3", "layer.0.attention.q_proj.weight", _DINOV3),
    Layout("torchvision's ViT", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight", _TORCHVISION),
    Layout("OpenAI's CLIP", "transformer.resblocks.0.attn.in_proj_weight", _OPENAI),
    Layout("DINOv2's training", "blocks.0.0.norm1.weight", ((r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),)),
)
"""Layouts that are not timm's, by what they are known from."""

TIMM = Layout("timm's, or the model's first release", "", ())
"""Names that timm knows, which its own code renames where a model's first release had others."""
