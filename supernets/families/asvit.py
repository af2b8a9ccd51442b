"""The As-ViT family: which axis of each shared tensor an architecture narrows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from search_spaces.asvit import AsvitSpace, AsvitTopology, Frame, topology_blocks
from search_spaces.asvit_blocks import AsvitBlock, Head, PatchEmbed, Reembed, WindowLayer
from supernets.family import NetworkFamily, blocks_config, register_family
from supernets.networks import asvit

KERNEL = "kernel:late-centre kernel:late-centre"
"""A smaller kernel keeps the taps that lie where its own padding puts it: an odd zero goes to the right and below."""


def _affine(name: str, axis: str) -> dict[str, str]:
    return {f"{name}.weight": axis, f"{name}.bias": axis}


def _linear(name: str, outputs: str, inputs: str) -> dict[str, str]:
    return {f"{name}.weight": f"{outputs} {inputs}", f"{name}.bias": outputs}


AXES: Mapping[type, Mapping[str, str]] = {
    PatchEmbed: {
        "conv.weight": f"embed . {KERNEL}",
        "conv.bias": "embed",
        **_affine("norm", "embed"),
        "position_embedding": ". . embed",
    },
    Reembed: {
        **_affine("norm", f"(in_embed {KERNEL})"),
        "reduce.weight": f"embed (in_embed {KERNEL})",
    },
    WindowLayer: {
        **_affine("attention_norm", "embed"),
        **_linear("attention.qkv", "(part group channel)", "embed"),
        **_linear("attention.project", "embed", "(group channel)"),
        **_affine("feed_forward_norm", "embed"),
        **_linear("feed_forward.expand", "hidden", "embed"),
        **_linear("feed_forward.project", "embed", "hidden"),
    },
    Head: {
        **_affine("norm", "embed"),
        **_linear("features", "embed", "embed"),
        **_linear("classifier", ".", "embed"),
    },
}
"""Heads are shared in groups, of which every network has as many as the space's fewest heads: more heads divide the
channels of a group more finely, and a narrower network has the first channels of each group."""


class AsvitFamily(NetworkFamily):
    """Modules and axes of the As-ViT family."""

    source_file = asvit.__file__
    class_name = "AsvitNetwork"

    def build_block(self, spec: AsvitBlock) -> nn.Module:
        """The ordinary module of one block."""
        return asvit.BLOCKS[type(spec).__name__](**asdict(spec))

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The ordinary module of a whole network."""
        return asvit.AsvitNetwork(config)

    def axes(self, spec: AsvitBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a block."""
        return AXES[type(spec)]

    def sizes(self, spec: AsvitBlock) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""
        if isinstance(spec, PatchEmbed):
            return {"embed": spec.width, "kernel": spec.kernel}
        if isinstance(spec, Reembed):
            return {"in_embed": spec.in_width, "embed": spec.width, "kernel": spec.kernel}
        if isinstance(spec, Head):
            return {"embed": spec.width}
        return {
            "embed": spec.width,
            "part": 3,
            "group": spec.head_groups,
            "channel": spec.heads // spec.head_groups * spec.head_width,
            "hidden": spec.width * spec.expansion,
        }

    def map_side(self, head: Head) -> int:
        """Side of the map that goes into the head."""
        return head.side

    def prepare(self, x_BCHW: Tensor, input_side: int) -> Tensor:
        """Images to the side that the network computes on."""
        return asvit.resize_images(x_BCHW, input_side)


def build_topology(
    topology: AsvitTopology, classes: int = 1000, *, position_embedding: bool = False, image_side: int = 224
) -> nn.Module:
    """A freshly initialised network of any topology, a proxy of any width included, on the current default device.

    Args:
        topology: The network.
        classes: Number of classes to tell apart.
        position_embedding: Whether there is one; the reference scores and scales networks without.
        image_side: Side of the image in pixels.

    Raises:
        ArchitectureError: The map of a stage cannot be cut into so many splits.
    """
    frame = Frame(image_side, classes=classes, position_embedding=position_embedding)
    return asvit.AsvitNetwork(blocks_config(image_side, classes, topology_blocks(topology, frame)))


register_family(AsvitSpace, AsvitFamily())
