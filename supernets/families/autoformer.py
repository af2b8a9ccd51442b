"""The AutoFormer family: which axis of each shared tensor an architecture narrows, in AutoFormer's and PreNAS's way.

The two differ in one tensor. A network of AutoFormer with D channels in all heads takes the first 3 D numbers of the
projection's bias as those of its queries, keys and values, so where a value's bias lies depends on the number of heads.
One of PreNAS takes the first D of each third. Source: the reference implementations of Chen et al., arXiv 2107.00651,
and of Wang et al., arXiv 2304.14636.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from search_spaces.autoformer import AutoformerSpace, PrenasSpace
from search_spaces.autoformer_blocks import AutoformerBlock, AutoformerLayer, Head
from search_spaces.resnas_blocks import PatchEmbed
from supernets.family import NetworkFamily, register_family
from supernets.networks import autoformer

QKV_BIAS = "attention.qkv.bias"


def _affine(name: str, axis: str) -> dict[str, str]:
    return {f"{name}.weight": axis, f"{name}.bias": axis}


def _linear(name: str, outputs: str, inputs: str) -> dict[str, str]:
    return {f"{name}.weight": f"{outputs} {inputs}", f"{name}.bias": outputs}


AXES: Mapping[type, Mapping[str, str]] = {
    PatchEmbed: {
        "conv.weight": "embed . . .",
        "conv.bias": "embed",
        "class_token": ". . embed",
        "position_embedding": ". . embed",
    },
    AutoformerLayer: {
        **_affine("attention_norm", "embed"),
        **_linear("attention.qkv", "(part head channel)", "embed"),
        **{f"attention.{of}_positions.{table}": ". ." for of in ("key", "value") for table in ("rows", "columns")},
        **_linear("attention.project", "embed", "(head channel)"),
        **_affine("feed_forward_norm", "embed"),
        **_linear("feed_forward.expand", "hidden", "embed"),
        **_linear("feed_forward.project", "embed", "hidden"),
    },
    Head: {**_affine("norm", "embed"), **_linear("classifier", ".", "embed")},
}
"""Rows of the fused projection are all queries, all keys, all values (``part``), each head by head."""


class PrenasFamily(NetworkFamily):
    """Modules and axes of PreNAS's supernets."""

    source_file = autoformer.__file__
    class_name = "Autoformer"

    def build_block(self, spec: AutoformerBlock) -> nn.Module:
        """The ordinary module of one block."""
        return autoformer.BLOCKS[type(spec).__name__](**asdict(spec))

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The ordinary module of a whole network."""
        return autoformer.Autoformer(config)

    def axes(self, spec: AutoformerBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a block."""
        return AXES[type(spec)]

    def sizes(self, spec: AutoformerBlock) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""
        if not isinstance(spec, AutoformerLayer):
            return {"embed": spec.width}
        return {
            "embed": spec.width,
            "part": 3,
            "head": spec.heads,
            "channel": spec.head_width,
            "hidden": spec.hidden,
        }

    def prepare(self, x_BCHW: Tensor, input_side: int) -> Tensor:
        """Images to the side that the network computes on."""
        return autoformer.resize_images(x_BCHW, input_side)

    def is_spared(self, spec: AutoformerBlock, name: str) -> bool:
        """Whether a parameter of a block has no weight decay: class token and absolute positions."""
        return name in ("class_token", "position_embedding")


class AutoformerFamily(PrenasFamily):
    """Modules and axes of AutoFormer's supernets."""

    def axes(self, spec: AutoformerBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a block."""
        axes = AXES[type(spec)]
        return {**axes, QKV_BIAS: "(part:packed head:packed channel:packed)"} if QKV_BIAS in axes else axes


register_family(AutoformerSpace, AutoformerFamily())
register_family(PrenasSpace, PrenasFamily())
