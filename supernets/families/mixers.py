"""The family of pyramids whose token mixers are chosen: axes of its shared tensors, and the form that is deployed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.mixers import MixersSpace
from search_spaces.mixers_blocks import Entry, FeedForward, Head, Mixer, MixersBlock, Stem
from supernets.family import NetworkFamily, register_family
from supernets.networks import mixers


def _affine(name: str, axis: str) -> dict[str, str]:
    return {f"{name}.weight": axis, f"{name}.bias": axis}


def _batch_norm(name: str, axis: str) -> dict[str, str]:
    statistics = {f"{name}.{tensor}": axis for tensor in ("running_mean", "running_var")}
    return _affine(name, axis) | statistics | {f"{name}.num_batches_tracked": ""}


def _layer(name: str, outputs: str, inputs: str) -> dict[str, str]:
    """A linear layer or, with the axes of its window behind ``inputs``, a convolution."""
    return {f"{name}.weight": f"{outputs} {inputs}".rstrip(), f"{name}.bias": outputs}


AXES: Mapping[type, Mapping[str, str]] = {
    Stem: {
        **_layer("patch", "embed", ". . ."),
        **_layer("overlap", "embed", ". . ."),
        **_layer("conv1", "half", ". . ."),
        **_batch_norm("batch_norm1", "half"),
        **_layer("conv2", "embed", "half . ."),
        **_batch_norm("batch_norm2", "embed"),
        **_affine("norm", "embed"),
    },
    Entry: {
        **_affine("norm", "in_embed"),
        **_layer("conv2", "embed", "in_embed . ."),
        **_layer("conv3", "embed", "in_embed . ."),
        **_affine("merge_norm", "(quad in_embed)"),
        "merge.weight": "embed (quad in_embed)",
        **_batch_norm("batch_norm", "embed"),
        **_affine("out_norm", "embed"),
    },
    Mixer: {
        **_affine("norm1", "embed"),
        **_layer("vkq", "(part embed)", "embed"),
        **_layer("project", "embed", "embed"),
        **_layer("cpe", "embed", ". . ."),
        **_layer("cpe2", "embed", ". . ."),
        "position_bias": "offset:centre offset:centre group",
        "scale": "embed",
        **_layer("depthwise", "embed", ". . ."),
        **_layer("reduce", "embed", "embed . ."),
        **_layer("pool_reduce", "embed", "embed"),
        **_affine("reduce_norm", "embed"),
        **_layer("project_high", "high", "high"),
        **_layer("project_low", "low", "low"),
        "temperature": "group",
        **_affine("norm3", "embed"),
        **_layer("local1", "embed", ". . ."),
        **_batch_norm("local_norm", "embed"),
        **_layer("local2", "embed", ". . ."),
        "deviations": ". group",
        "amplitudes": ". group",
        **_layer("short", "(part embed)", ". . ."),
        "direct": "embed",
        "filter.frequencies": ".",
        **_layer("filter.layers.0", ".", "."),
        **_layer("filter.layers.1", ".", "."),
        **_layer("filter.layers.2", ".", "."),
        "filter.out.weight": "embed .",
    },
    FeedForward: {
        **_affine("norm2", "embed"),
        **_batch_norm("norm_in", "embed"),
        **_layer("expand", "unit", "embed"),
        **_layer("depthwise", "unit", ". . ."),
        **_batch_norm("norm_hidden", "unit"),
        **_layer("project", "embed", "unit"),
    },
    Head: {**_affine("norm", "embed"), **_layer("classifier", ".", "embed")},
}
"""Rows of ``vkq`` are values, keys, queries (``part``), and heads group the same rows whatever their width.

The order of heads (``group``) and of hidden channels (``unit``) is not free: rows of a projection belong to no head for
good, and RePaViT's activation is on the first hidden channels.
"""

BRANCH = 0.1
"""Factor of the initial weights that lead back to the tokens, in blocks of several kinds."""


class MixersFamily(NetworkFamily):
    """Modules and axes of the family."""

    source_file = mixers.__file__
    class_name = "MixersNetwork"

    def build_block(self, spec: MixersBlock) -> nn.Module:
        """The ordinary module of one block."""
        return mixers.BLOCKS[type(spec).__name__](**asdict(spec))

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The ordinary module of a whole network."""
        return mixers.MixersNetwork(config)

    def begin(self, network: nn.Module) -> None:
        """Let what may stand in one place begin as about the same function, so that what lies behind it can learn.

        Stems and entries begin with one kernel, a depthwise convolution between linear layers as the identity, and
        what is added to tokens at nothing or at a tenth. Blocks of one kind alone keep their own initial weights.
        """
        for block in network.modules():
            if isinstance(block, (mixers.Stem, mixers.Entry)):
                _align(block, is_union=False)
            elif isinstance(block, mixers.Mixer):
                _align(block, is_union=len({*block.parts} - {"cpe", "folded"}) > 1)
            elif isinstance(block, mixers.FeedForward):
                _align(block, is_union=len(block.kinds) > 1)

    def axes(self, spec: MixersBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a block."""
        return AXES[type(spec)]

    def sizes(self, spec: MixersBlock) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""
        sizes = {"embed": spec.width}
        if isinstance(spec, Stem):
            sizes |= {"half": spec.width // 2}
        elif isinstance(spec, Entry):
            sizes |= {"in_embed": spec.in_width, "quad": 4}
        elif isinstance(spec, FeedForward):
            sizes |= {"unit": spec.hidden}
        elif isinstance(spec, Mixer):
            sizes |= {
                "part": 1 if spec.parts[0] == "conv" and len(spec.parts) <= 2 else 3,
                "group": spec.heads,
                "offset": 2 * spec.window - 1,
            }
            sizes |= dict(zip(("high", "low"), spec.split, strict=True))
        return sizes

    def prepare(self, x_BCHW: Tensor, input_side: int) -> Tensor:
        """Images to the side that the network computes on."""
        return mixers.resize_images(x_BCHW, input_side)

    def deployed_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The description of the network whose RePaViT and Hyena blocks are folded."""
        blocks = [dict(block) for block in config["blocks"]]
        for block in blocks:
            if block["kind"] == "FeedForward":
                block["folded"] = "repa" in block["kinds"]
            elif block["kind"] == "Mixer" and block["parts"][0] in mixers.CONVOLVING:
                block["parts"] = (*block["parts"], "folded")
        return {**config, "blocks": blocks}

    def deploy(self, network: nn.Module) -> nn.Module:
        """The network whose RePaViT and Hyena blocks are folded; itself where it has none."""
        found = [name for name, block in network.named_modules() if _is_foldable(block)]
        if not found:
            return network
        deployed = copy.deepcopy(network)
        for name in found:
            deployed.set_submodule(name, deployed.get_submodule(name).fold())  # type: ignore[operator]
        return deployed


def _is_foldable(block: nn.Module) -> bool:
    if isinstance(block, mixers.Mixer):
        return block.parts[0] in mixers.CONVOLVING and "folded" not in block.parts
    return isinstance(block, mixers.FeedForward) and "repa" in block.kinds and not block.folded


@torch.no_grad()
def _align(block: nn.Module, is_union: bool) -> None:
    weights = {
        name.removesuffix(".weight"): weight for name, weight in block.named_parameters() if name.endswith(".weight")
    }
    if {"patch", "overlap"} <= weights.keys():
        stride = weights["patch"].shape[-1]
        weights["overlap"].zero_()[..., stride - 1 :, stride - 1 :] = weights["patch"]
    if {"conv2", "conv3"} <= weights.keys():
        weights["conv3"].zero_()[..., 1:, 1:] = weights["conv2"]
    if {"conv2", "merge"} <= weights.keys():
        weights["merge"].copy_(weights["conv2"].permute(0, 3, 2, 1).flatten(1))
    if not is_union:
        return
    if isinstance(block, mixers.FeedForward):
        weights["depthwise"].zero_()[..., 1, 1] = 1
    for name in {"cpe", "cpe2", "local2"} & weights.keys():
        weights[name].zero_()
    for name in {"project", "project_high", "project_low"} & weights.keys():
        weights[name].mul_(BRANCH)


register_family(MixersSpace, MixersFamily())
