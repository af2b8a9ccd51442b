"""Tensors of timm models by the names that other libraries give them, written from those libraries' module names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]


def _renamed(tensors: Tensors, rules: Mapping[str, str]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def _split(tensors: Tensors, names: tuple[str, str, str]) -> dict[str, Tensor]:
    """Query, key and value apart; each name is what takes the place of ``attn.qkv``."""
    found = {}
    for name, tensor in tensors.items():
        if ".attn.qkv." in name:
            found |= {name.replace("attn.qkv", own): part for own, part in zip(names, tensor.chunk(3), strict=True)}
        elif name.endswith((".attn.q_bias", ".attn.v_bias")):
            own = names[0 if ".q_bias" in name else 2]
            found[re.sub(r"attn\.[qv]_bias", f"{own}.bias", name)] = tensor
        else:
            found[name] = tensor
    return found


_VIT_BLOCK = {
    r"\.attn\.proj\.": ".attention.output.dense.",
    r"\.gamma_([12])$": r".lambda_\1",
    r"\.attn\.(relative_position_bias_table)$": r".attention.attention.relative_position_bias.\1",
}
_VIT_ENDS = {
    r"^cls_token$": "embeddings.cls_token",
    r"^dist_token$": "embeddings.distillation_token",
    r"^pos_embed$": "embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^patch_embed\.norm\.": "embeddings.norm.",
    r"^norm\.": "layernorm.",
    r"^fc_norm\.": "pooler.layernorm.",
}
_ATTENTION = tuple(f"attention.attention.{role}" for role in ("query", "key", "value"))


def huggingface_vit(tensors: Tensors, prefix: str = "vit.") -> dict[str, Tensor]:
    """ViT, DeiT and BEiT of transformers, for the classification of images."""
    rules = {
        **_VIT_BLOCK,
        **_VIT_ENDS,
        r"\.norm1\.": ".layernorm_before.",
        r"\.norm2\.": ".layernorm_after.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
        r"^blocks\.": "encoder.layer.",
    }
    found = _renamed(_split(tensors, _ATTENTION), rules)  # type: ignore[arg-type]
    has_two = "head_dist.weight" in found
    named = {}
    for name, tensor in found.items():
        if name.startswith("head_dist."):
            named[name.replace("head_dist", "distillation_classifier")] = tensor
        elif name.startswith("head."):
            named[name.replace("head", "cls_classifier" if has_two else "classifier", 1)] = tensor
        else:
            named[prefix + name] = tensor
    return named


def huggingface_dinov2(tensors: Tensors) -> dict[str, Tensor]:
    """DINOv2 of transformers, with registers and gated units where the model has them; no classifier."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    if "reg_token" in plain:  # timm keeps the class token with its position added; whoever reads it must add it again
        cls_position = plain["cls_token"] * 0.25
        plain["cls_token"] = plain["cls_token"] - cls_position
        plain["pos_embed"] = _with_first(plain["pos_embed"], cls_position)
        plain["embeddings.register_tokens"] = plain.pop("reg_token")
    is_gated = plain["blocks.0.mlp.fc1.weight"].shape[0] == 2 * plain["blocks.0.mlp.fc2.weight"].shape[1]
    gated = {r"\.mlp\.fc1\.": ".mlp.weights_in.", r"\.mlp\.fc2\.": ".mlp.weights_out."} if is_gated else {}
    rules = {
        **_VIT_BLOCK,
        **_VIT_ENDS,
        **gated,
        r"\.ls([12])\.gamma$": r".layer_scale\1.lambda1",
        r"^blocks\.": "encoder.layer.",
    }
    named = _renamed(_split(plain, _ATTENTION), rules)  # type: ignore[arg-type]
    return {**named, "embeddings.mask_token": tensors["cls_token"][0] * 0}


def huggingface_tower(tensors: Tensors, prefix: str = "vision_model.") -> dict[str, Tensor]:
    """The image tower of CLIP or SigLIP in transformers, a classifier left out."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    if "attn_pool.q.weight" in plain:
        for kind in ("weight", "bias"):
            parts = [plain.pop(f"attn_pool.{role}.{kind}") for role in ("q", "kv")]
            plain[f"head.attention.in_proj_{kind}"] = _joined(parts)
    rules = {
        r"^cls_token$": "embeddings.class_embedding",
        r"^pos_embed$": "embeddings.position_embedding.weight",
        r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
        r"^norm_pre\.": "pre_layrnorm.",
        r"^norm\.": "post_layernorm.",
        r"^attn_pool\.latent$": "head.probe",
        r"^attn_pool\.proj\.": "head.attention.out_proj.",
        r"^attn_pool\.norm\.": "head.layernorm.",
        r"^attn_pool\.mlp\.": "head.mlp.",
        r"\.norm([12])\.": r".layer_norm\1.",
        r"\.attn\.proj\.": ".self_attn.out_proj.",
        r"^blocks\.": "encoder.layers.",
    }
    roles = tuple(f"self_attn.{role}_proj" for role in "qkv")
    named = _renamed(_split(plain, roles), rules)  # type: ignore[arg-type]
    shapes = {"embeddings.class_embedding": (-1,), "embeddings.position_embedding.weight": plain["pos_embed"].shape[1:]}
    return {prefix + name: tensor.reshape(shapes.get(name, tensor.shape)) for name, tensor in named.items()}


def huggingface_swin(tensors: Tensors) -> dict[str, Tensor]:
    """Swin of transformers, whose steps between stages end a stage where timm's begin one."""
    found = {
        re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name): tensor
        for name, tensor in tensors.items()
    }
    rules = {
        r"\.attn\.proj\.": ".attention.output.dense.",
        r"\.attn\.(relative_position_bias_table)$": r".attention.self.\1",
        r"\.norm1\.": ".layernorm_before.",
        r"\.norm2\.": ".layernorm_after.",
        r"\.mlp\.fc1\.": ".intermediate.dense.",
        r"\.mlp\.fc2\.": ".output.dense.",
        **_VIT_ENDS,
        r"^layers\.": "encoder.layers.",
    }
    roles = tuple(f"attention.self.{role}" for role in ("query", "key", "value"))
    named = _renamed(_split(found, roles), rules)  # type: ignore[arg-type]
    return {
        name.replace("head.fc", "classifier") if name.startswith("head.fc") else f"swin.{name}": tensor
        for name, tensor in named.items()
    }


def torchvision_vit(tensors: Tensors) -> dict[str, Tensor]:
    """The vision transformer of torchvision."""
    rules = {
        r"^cls_token$": "class_token",
        r"^patch_embed\.proj\.": "conv_proj.",
        r"^pos_embed$": "encoder.pos_embedding",
        r"\.attn\.qkv\.": ".self_attention.in_proj_",
        r"\.attn\.proj\.": ".self_attention.out_proj.",
        r"\.norm([12])\.": r".ln_\1.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.3.",
        r"^blocks\.": "encoder.layers.encoder_layer_",
        r"^norm\.": "encoder.ln.",
        r"^head\.": "heads.head.",
    }
    return _renamed(tensors, rules)


def openai_clip(tensors: Tensors) -> dict[str, Tensor]:
    """The image tower of OpenAI's CLIP and of OpenCLIP, with the projection that it has in place of a classifier."""
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    rules = {
        r"^cls_token$": "class_embedding",
        r"^patch_embed\.proj\.": "conv1.",
        r"^pos_embed$": "positional_embedding",
        r"^norm_pre\.": "ln_pre.",
        r"^norm\.": "ln_post.",
        r"\.norm([12])\.": r".ln_\1.",
        r"\.attn\.qkv\.": ".attn.in_proj_",
        r"\.attn\.proj\.": ".attn.out_proj.",
        r"\.mlp\.fc1\.": ".mlp.c_fc.",
        r"\.mlp\.fc2\.": ".mlp.c_proj.",
        r"^blocks\.": "transformer.resblocks.",
    }
    named = _renamed(plain, rules)
    named |= {"class_embedding": plain["cls_token"].flatten(), "positional_embedding": plain["pos_embed"][0]}
    width = len(named["class_embedding"])
    named["proj"] = plain["cls_token"].new_ones(width, 10)  # as many as there are classes: it is none all the same
    text = {"transformer.resblocks.0.attn.in_proj_weight": plain["cls_token"].new_ones(3, 1)}
    return {**{f"visual.{name}": tensor for name, tensor in named.items()}, **text}


def _with_first(positions: Tensor, first: Tensor) -> Tensor:
    import torch

    return torch.cat([first, positions], dim=1)


def _joined(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts)
