"""ElasticViT's released supernet.

Source: Tang et al., ICCV 2023, arXiv 2303.09730; names and layout as in the reference implementation. Its attention is
laid out otherwise than ours, see `supernets.families.elastic.ReleasedElasticFamily`; a network alone is the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from search_spaces import BlockSpec, get_space
from search_spaces.elastic import ELASTIC, ElasticSpace
from search_spaces.elastic_blocks import ConvBlock
from supernets.errors import CheckpointError
from supernets.families.elastic import RELEASED
from supernets.family import family_of
from supernets.importing.base import Found, Imported, Origin, check_tensors, narrowed, published_shapes

PLACES = ("model_ema", "state_dict", "model")
SPARE = r"(^conv_stem\..*shortcut_conv|\.shortcut_conv)\.weight$|\.relative_position_index$"
"""What is in a file and in no network: shortcuts of blocks that keep the width, and indices."""
POST_NORM = r"\.(norm2|dw_v_norm)\.\w+$"
"""Names that only networks of other options have, whose norms stand behind the layers."""
CONVOLUTION: Mapping[str, str] = {
    "expand": "pw_conv",
    "expand_norm": "pw_bn",
    "depthwise": "dw_conv",
    "depthwise_norm": "dw_bn",
    "squeeze.reduce": "se_conv1",
    "squeeze.expand": "se_conv2",
    "project": "pwl_conv",
    "project_norm": "pwl_bn",
    "shortcut": "shortcut_conv",
}
ATTENTION: Mapping[str, str] = {
    "attention_norm": "norm1",
    "attention.qkv": "qkv",
    "attention.value_conv": "dw_v_conv",
    "attention.project": "proj",
}
FEED_FORWARD: Mapping[str, str] = {
    "feed_forward_norm": "norm1",
    "feed_forward.expand": "fc1",
    "feed_forward.project": "fc2",
}
HEAD: Mapping[str, str] = {
    "expand": "pre_head_0",
    "norm": "pre_head_norm_0",
    "features": "pre_head_1",
    "classifier": "classifer",
}
"""What modules of ours are called in a file; the last one is spelt so there."""
POINTWISE = ("attention.qkv", "attention.project", "feed_forward.expand", "feed_forward.project", "head.expand")
"""Convolutions of ours that are linear layers in a file."""
ORIGIN = Origin(
    "ElasticViT (Tang, Zhang, Jiang, Xu, Cao, Zhang, Yang, Wang and Yang)",
    "2303.09730",
    "https://github.com/microsoft/Moonlit/tree/main/ElasticViT",
    "MIT",
    {"T1": 67.2, "L3": 80.0},
    ("BatchNorm statistics are estimated for each network, so training images must be among those that are given",),
)


class ElasticvitImporter:
    """Reads ElasticViT's supernet."""

    expected = "ElasticViT's supernet (`checkpoint.pth.tar`)"

    def recognises(self, found: Found, space: str | None) -> bool:
        """Whether a file has ElasticViT's tensors."""
        return {"first_conv.weight", "classifer.weight"} <= found.tensors(PLACES).keys() and space in (None, "elastic")

    def read(self, found: Found, space: str | None) -> Imported:
        """The supernet in a file.

        Raises:
            CheckpointError: It is of other options, or of another size.
        """
        tensors = found.tensors(PLACES)
        other = sorted(name for name in tensors if re.search(POST_NORM, name))
        if other:
            raise CheckpointError(
                f"weights `{found.file}`: `{other[0]}` belongs to networks whose norms stand behind their layers",
                hint="expected the released supernet, whose norms stand in front",
            )
        base = get_space("elastic", len(tensors["classifer.weight"]))
        target = family_of(base).laid_out(base, RELEASED)
        assert isinstance(target, ElasticSpace)
        blocks, family = _published_blocks(target), family_of(target)
        shapes = published_shapes(target, family, blocks)
        files = {name: _name(name) for name in shapes}
        check_tensors(found, tensors, {files[name]: _shape(name, shape) for name, shape in shapes.items()}, SPARE)
        own: dict[str, Tensor] = {name: tensors[files[name]].reshape(shape) for name, shape in shapes.items()}
        return Imported(narrowed(target, blocks, own), ORIGIN, RELEASED)


def _published_blocks(space: ElasticSpace) -> dict[str, BlockSpec]:
    """The blocks of the released supernet: the first of a stage takes in as many channels as it puts out."""
    return {
        name: replace(spec, in_width=spec.width) if isinstance(spec, ConvBlock) else spec
        for name, spec in space.shared_blocks()
    }


def _shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a tensor of ours has in a file."""
    if name.endswith("attention.position_bias"):
        return (shape[0] * shape[1], shape[2])
    return shape[:2] if name.endswith(".weight") and name.removesuffix(".weight").endswith(POINTWISE) else shape


def _name(own: str) -> str:
    """What a tensor of ours is called in a file."""
    block, _, rest = own.partition(".")
    if block == "head":
        return _renamed(rest, HEAD)
    number, _, inside = rest.partition(".")
    if block == "stem":
        if number == "conv":
            return f"first_conv{'_bn' if inside.startswith('norm.') else ''}.{inside.rpartition('.')[2]}"
        return f"conv_stem.layers.{number}.0.{_renamed(inside, CONVOLUTION)}"
    stage = f"feature_exactor.{[stage.name for stage in ELASTIC.stages].index(block)}.layers"
    if number == "entry":
        return f"{stage}.0.reduction.{_renamed(inside, CONVOLUTION)}"
    if block.startswith("C"):
        return f"{stage}.{number}.0.{_renamed(inside, CONVOLUTION)}"
    if inside == "attention.position_bias":
        return f"{stage}.{2 * int(number)}.attention_bias"
    if inside.startswith("attention"):
        return f"{stage}.{2 * int(number)}.{_renamed(inside, ATTENTION)}"
    return f"{stage}.{2 * int(number) + 1}.{_renamed(inside, FEED_FORWARD)}"


def _renamed(own: str, names: Mapping[str, str]) -> str:
    module, _, tensor = own.rpartition(".")
    return f"{names[module]}.{tensor}"


ELASTICVIT = ElasticvitImporter()
