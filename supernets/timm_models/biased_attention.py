"""Attention with learned biases that depend on how far apart two positions are: LeViT, EfficientFormer and its v2.

timm keeps the biases of every head by distance and looks them up for all pairs of positions. Outside of training it
remembers what it looked up, which is wrong as soon as the weights are borrowed by one network after another, so parts
look them up each time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from supernets.timm_models.tables import AxesTable

HEAD = "head"
HEAD_WIDTHS = "widths of the keys and values of a head: the attention is scaled for them"
KEYS, VALUES = "(head key_dim)", "(head value_dim)"
"""Rows of separate projections; queries are as wide as keys."""
KEYS_VALUES, QUERIES_KEYS_VALUES = "(head kv_dim)", "(head qkv_dim)"
"""Rows of fused projections."""


def describe_heads(table: AxesTable, path: str) -> None:
    """The heads of an attention and their biases; its projections are for the adapter to describe.

    Args:
        table: Table of the part; gets the axes of `KEYS`, `VALUES` and of the fused ones.
        path: Path of the attention.
    """
    layer: Any = table.module.get_submodule(path)
    layer.__class__ = _without_memory(type(layer))  # type: ignore[arg-type]
    keys, values = layer.key_dim, layer.val_dim if hasattr(layer, "val_dim") else layer.d
    table.sizes |= {HEAD: layer.num_heads, "key_dim": keys, "value_dim": values}
    table.sizes |= {"kv_dim": keys + values, "qkv_dim": 2 * keys + values}
    table.tensor(f"{path}.attention_biases", f"{HEAD} .")
    if "attention_bias_idxs" not in layer._non_persistent_buffers_set:
        table.tensor(f"{path}.attention_bias_idxs", ". .")
    table.attribute(path, num_heads=HEAD)
    for name, words in {"key_attn_dim": KEYS, "val_attn_dim": VALUES, "dh": VALUES}.items():
        if hasattr(layer, name):
            table.attribute(path, **{name: words.strip("()")})


@cache
def _without_memory(base: type[nn.Module]) -> type[nn.Module]:
    def get_attention_biases(self: Any, device: torch.device) -> Tensor:
        biases_HQK: Tensor = self.attention_biases[:, self.attention_bias_idxs]
        return biases_HQK

    return type(f"{base.__name__}WithoutMemory", (base,), {"get_attention_biases": get_attention_biases})
