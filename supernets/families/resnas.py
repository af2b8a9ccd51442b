"""The ViT-ResNAS family: axes of its shared tensors, forms that are only trained, and weights for other images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from math import isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces import SearchSpace, SingleSpace
from search_spaces.resnas import ResnasSpace
from search_spaces.resnas_blocks import ConvStem, Head, PatchEmbed, Reduction, ResnasBlock, TransformerLayer
from supernets.errors import SupernetError
from supernets.family import NetworkFamily, register_family
from supernets.networks import resnas

_PATCH_CLASSIFIER = ".patch_classifier."


def _affine(name: str, axis: str) -> dict[str, str]:
    return {f"{name}.weight": axis, f"{name}.bias": axis}


def _linear(name: str, outputs: str, inputs: str) -> dict[str, str]:
    return {f"{name}.weight": f"{outputs} {inputs}", f"{name}.bias": outputs}


def _conv_norm(name: str) -> dict[str, str]:
    statistics = {f"{name}.norm.{tensor}": "." for tensor in ("running_mean", "running_var")}
    counter = {f"{name}.norm.num_batches_tracked": ""}
    return {f"{name}.conv.weight": ". . . .", **_affine(f"{name}.norm", "."), **statistics, **counter}


AXES: Mapping[type, Mapping[str, str]] = {
    ConvStem: {**_conv_norm("reduce"), **_conv_norm("refine1"), **_conv_norm("refine2")},
    PatchEmbed: {
        "conv.weight": "embed . . .",
        "conv.bias": "embed",
        "class_token": ". . embed",
        "position_embedding": ". . embed",
    },
    TransformerLayer: {
        **_affine("attention_norm", "embed"),
        **_linear("attention.qkv", "(part head channel)", "embed"),
        **_linear("attention.project", "embed", "(head channel)"),
        **_affine("feed_forward_norm", "embed"),
        **_linear("feed_forward.expand", "hidden", "embed"),
        **_linear("feed_forward.project", "embed", "hidden"),
    },
    Reduction: {
        **_affine("norm", "in_embed"),
        "conv.weight": "embed in_embed . .",
        "conv.bias": "embed",
        "position_embedding": ". . embed",
        **_linear("project", "embed", "in_embed"),
    },
    Head: {
        **_affine("norm", "embed"),
        **_linear("classifier", ".", "embed"),
        **_linear("distillation_classifier", ".", "embed"),
        **_linear("patch_classifier", ".", "embed"),
    },
}
"""Rows of the fused projection are all queries, all keys, all values (``part``), each head by head."""


class ResnasFamily(NetworkFamily):
    """Modules and axes of the ViT-ResNAS family."""

    source_file = resnas.__file__
    class_name = "ResnasNetwork"
    has_patch_classifier = True

    def build_block(self, spec: ResnasBlock) -> nn.Module:
        """The ordinary module of one block."""
        return resnas.BLOCKS[type(spec).__name__](**asdict(spec))

    def build_network(self, config: Mapping[str, Any]) -> nn.Module:
        """The ordinary module of a whole network."""
        return resnas.ResnasNetwork(config)

    def axes(self, spec: ResnasBlock) -> Mapping[str, str]:
        """The axis description of every tensor of a block."""
        return AXES[type(spec)]

    def sizes(self, spec: ResnasBlock) -> Mapping[str, int]:
        """The size that a block gives to each named axis."""
        if isinstance(spec, ConvStem):
            return {}
        if isinstance(spec, Reduction):
            return {"in_embed": spec.in_width, "embed": spec.width}
        if isinstance(spec, TransformerLayer):
            return {
                "embed": spec.width,
                "part": 3,
                "head": spec.heads,
                "channel": spec.head_width,
                "hidden": spec.hidden,
            }
        return {"embed": spec.width}

    def prepare(self, x_BCHW: Tensor, input_side: int) -> Tensor:
        """Images to the side that the network computes on."""
        return resnas.resize_images(x_BCHW, input_side)

    def is_spared(self, spec: ResnasBlock, name: str) -> bool:
        """Whether a parameter of a block has no weight decay: class tokens; positions have, as in the reference."""
        return name == "class_token"

    def map_side(self, head: Head) -> int:
        """Side of the map of patches that goes into the head."""
        return head.side

    def is_training_only(self, name: str) -> bool:
        """Whether a tensor is one of the classifier of patches."""
        return _PATCH_CLASSIFIER in name

    def training_form(
        self, space: SearchSpace, image_side: int | None, drop_path: float, patch_classifier: bool
    ) -> SearchSpace:
        """The space with stochastic depth, a classifier of patches, or images of another side.

        Raises:
            ArchitectureError: The image's side is no multiple of what the networks reduce it by.
        """
        base, alone = space.base, space.architecture
        assert isinstance(base, ResnasSpace)
        form = base.variant(image_side=image_side, drop_path=drop_path, patch_classifier=patch_classifier, alone=alone)
        return form if alone is None else SingleSpace(form, alone)

    def fit_weights(self, weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """The weights of a network for its form that computes on other images or is trained otherwise.

        Position embeddings are interpolated (bicubic), each token's but the class tokens'. A patch classifier is left
        out where ``network`` has none, and stays as it is initialised where ``weights`` have none.

        Args:
            weights: The ``state_dict`` of the same architecture.
            network: A `ResnasNetwork`, or the shared one of a supernet.

        Returns:
            A complete ``state_dict`` for ``network``.

        Raises:
            SupernetError: The weights are those of another network.
        """
        own = network.state_dict()
        fitted = {name: weights.get(name, tensor) for name, tensor in own.items() if self.is_training_only(name)}
        for name in sorted(own.keys() | weights.keys()):
            if self.is_training_only(name):
                continue
            found, wanted = weights.get(name), own.get(name)
            if found is not None and wanted is not None and found.shape == wanted.shape:
                fitted[name] = found
                continue
            if found is None or wanted is None or not _are_positions(name, found, wanted):
                shapes = ["none" if tensor is None else tuple(tensor.shape) for tensor in (found, wanted)]
                raise SupernetError(
                    f"weights: tensor `{name}`: found {shapes[0]}, expected {shapes[1]}",
                    hint="only weights of the same architecture and number of classes can be fitted",
                )
            class_token = own.get(name.replace("position_embedding", "class_token"))
            fitted[name] = _interpolated(found, wanted, 0 if class_token is None else class_token.shape[1])
        return fitted


def _are_positions(name: str, found: Tensor, wanted: Tensor) -> bool:
    """Whether two tensors are position embeddings of grids that differ in nothing but their sides."""
    return name.endswith("position_embedding") and found.ndim == 3 and found.shape[2] == wanted.shape[2]


def _interpolated(found_1NC: Tensor, wanted_1NC: Tensor, class_tokens: int) -> Tensor:
    """Positions of another grid; those of class tokens stay."""
    sides = [isqrt(positions.shape[1] - class_tokens) for positions in (found_1NC, wanted_1NC)]
    class_1TC, grid_1PC = found_1NC[:, :class_tokens], found_1NC[:, class_tokens:]
    grid_1CHW = grid_1PC.transpose(1, 2).reshape(1, -1, sides[0], sides[0])
    grid_1CHW = F.interpolate(grid_1CHW, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return torch.cat([class_1TC, grid_1CHW.flatten(2).transpose(1, 2)], dim=1)


register_family(ResnasSpace, ResnasFamily())
