"""The ElasticViT family: which axis of each shared tensor an architecture narrows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from search_spaces import SearchSpace
from search_spaces.elastic import ElasticSpace
from search_spaces.elastic_blocks import ConvBlock, ElasticBlock, FirstConv, Head, StemBlock, TransformerLayer
from supernets.family import NetworkFamily, register_family
from supernets.networks import elasticvit


def _batch_norm(name: str, axis: str) -> dict[str, str]:
    tensors = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{tensor}": axis for tensor in tensors} | {f"{name}.num_batches_tracked": ""}


def _affine(name: str, axis: str) -> dict[str, str]:
    return {f"{name}.weight": axis, f"{name}.bias": axis}


def _linear(name: str, outputs: str, inputs: str, *, pointwise: bool) -> dict[str, str]:
    return {f"{name}.weight": f"{outputs} {inputs}" + (" . ." if pointwise else ""), f"{name}.bias": outputs}


KERNEL = ". kernel:centre kernel:centre"

AXES: Mapping[type, Mapping[str, str]] = {
    FirstConv: {"conv.weight": "embed . . .", **_batch_norm("norm", "embed")},
    StemBlock: {
        "depthwise.weight": f"embed {KERNEL}",
        **_batch_norm("depthwise_norm", "embed"),
        "project.weight": "embed embed . .",
        **_batch_norm("project_norm", "embed"),
    },
    ConvBlock: {
        "expand.weight": "hidden in_embed . .",
        **_batch_norm("expand_norm", "hidden"),
        "depthwise.weight": f"hidden {KERNEL}",
        **_batch_norm("depthwise_norm", "hidden"),
        **_linear("squeeze.reduce", "squeezed", "hidden", pointwise=True),
        **_linear("squeeze.expand", "hidden", "squeezed", pointwise=True),
        "project.weight": "embed hidden . .",
        **_batch_norm("project_norm", "embed"),
        "shortcut.weight": "embed in_embed . .",
    },
    TransformerLayer: {
        **_affine("attention_norm", "embed"),
        "attention.qkv.weight": "(head channel) embed . .",
        "attention.value_conv.weight": "(head value) . . .",
        "attention.position_bias": "offset:centre offset:centre head",
        **_linear("attention.project", "embed", "(head value)", pointwise=True),
        **_affine("feed_forward_norm", "embed"),
        **_linear("feed_forward.expand", "hidden", "embed", pointwise=True),
        **_linear("feed_forward.project", "embed", "hidden", pointwise=True),
    },
    Head: {
        **_linear("expand", "hidden", "embed", pointwise=True),
        **_batch_norm("norm", "hidden"),
        **_linear("features", ".", "hidden", pointwise=False),
        **_linear("classifier", ".", ".", pointwise=False),
    },
}

RELEASED = "released"
RELEASED_AXES: Mapping[str, str] = {
    "attention.qkv.weight": "query+key+values embed . .",
    "attention.value_conv.weight": "values . . .",
    "attention.project.weight": "embed values . .",
}
"""What differs in transformer layers of ElasticViT's released supernet."""


class ElasticFamily(NetworkFamily):
    """Modules and axes of the ElasticViT family."""

    source_file = elasticvit.__file__
    class_name = "ElasticViT"

    def build_block(self, spec: ElasticBlock) -> nn.Module:
        """The ordinary module of one block."""
        return elasticvit.BLOCKS[type(spec).__name__](**asdict(spec))

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The ordinary module of a whole network."""
        return elasticvit.ElasticViT(config)

    def axes(self, spec: ElasticBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a block."""
        return AXES[type(spec)]

    def is_spared(self, spec: ElasticBlock, name: str) -> bool:
        """Whether ElasticViT trains a parameter without weight decay: all of convolutional blocks."""
        return isinstance(spec, (FirstConv, StemBlock, ConvBlock))

    def sizes(self, spec: ElasticBlock) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""
        if isinstance(spec, FirstConv):
            return {"embed": spec.width}
        if isinstance(spec, StemBlock):
            return {"embed": spec.width, "kernel": spec.kernel}
        if isinstance(spec, ConvBlock):
            return {
                "in_embed": spec.in_width,
                "embed": spec.width,
                "hidden": spec.hidden,
                "squeezed": spec.hidden // 4,
                "kernel": spec.kernel,
            }
        if isinstance(spec, Head):
            return {"embed": spec.width, "hidden": spec.width * spec.expansion}
        value = spec.v_scale * spec.head_width
        return {
            "embed": spec.width,
            "head": spec.heads,
            "channel": 2 * spec.head_width + value,
            "value": value,
            "offset": 2 * spec.side - 1,
            "hidden": spec.width * spec.mlp_ratio,
        }

    def map_side(self, head: Head) -> int:
        """Side of the map that goes into the head."""
        return head.side

    def prepare(self, x_BCHW: Tensor, input_side: int) -> Tensor:
        """Images to the side that the network computes on."""
        return elasticvit.resize_images(x_BCHW, input_side)

    def laid_out(self, space: SearchSpace, layout: str) -> SearchSpace:
        """The space whose supernet has ElasticViT's released tensors, where that layout is asked for.

        Raises:
            SearchSpaceError: There is no such layout.
        """
        base = space.base
        if layout != RELEASED or not isinstance(base, ElasticSpace):
            return super().laid_out(space, layout)
        return ReleasedElasticSpace(base.definition, base.classes)


class ReleasedElasticSpace(ElasticSpace):
    """The same networks on shared tensors as ElasticViT's authors lay them out."""


class ReleasedElasticFamily(ElasticFamily):
    """Modules and axes of a supernet that ElasticViT's authors trained.

    A network takes the first rows of the queries, of the keys and of the values, one after another, and only then calls
    them heads, so what a row is depends on the network. Channels of values are counted over all heads.
    """

    def axes(self, spec: ElasticBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a block."""
        return {**AXES[type(spec)], **RELEASED_AXES} if isinstance(spec, TransformerLayer) else AXES[type(spec)]

    def sizes(self, spec: ElasticBlock) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""
        sizes = super().sizes(spec)
        if not isinstance(spec, TransformerLayer):
            return sizes
        return {**sizes, "query": spec.width, "key": spec.width, "values": spec.v_scale * spec.width}


register_family(ElasticSpace, ElasticFamily())
register_family(ReleasedElasticSpace, ReleasedElasticFamily())
