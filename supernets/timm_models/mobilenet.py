"""MobileNetV4, hybrid and convolutional, and the older networks that timm builds on ``MobileNetV3``.

Source of the networks: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", ECCV 2024, arXiv
2404.10518; Howard et al., "Searching for MobileNetV3", ICCV 2019, arXiv 1905.02244; Cui et al., "PP-LCNet: A
Lightweight CPU Convolutional Neural Network", 2021, arXiv 2109.15099. A block without a shortcut begins a new width;
blocks with one keep the width of their input and can be left out. Every expansion has a size of its own, and so have
the query heads of every attention, which share one key and one value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from supernets.timm_models.convolutions import blur_pool, channels_per_group, convolution
from supernets.timm_models.parts import Adapter, Elastic, Part, count_values, hidden_values, shell, width_values
from supernets.timm_models.tables import AxesTable, NotElastic

EMBED, IN_EMBED, HIDDEN, HEAD = "embed", "in_embed", "hidden", "head"
WIDTH_STEP = 16
"""Channels that the widths of stages are multiples of, 8 where there are few."""

KERNELS = "kernels of depthwise convolutions: they keep their size"
KEYS = "key and value of an attention: all heads share one, whose width stays"
SQUEEZE = "channels that a squeeze-and-excitation squeezes to: they keep their number"


@dataclass(frozen=True)
class Layer:
    """A convolution of a block, and what stands behind it.

    Attributes:
        convolution: Path in the block; not all blocks of a class have all of them.
        norm: Path of its norm.
        outputs: Axis of its output channels.
        inputs: Axis of its input channels.
        blur: Path of a pooling that takes over its stride.
    """

    convolution: str
    norm: str
    outputs: str
    inputs: str
    blur: str = ""


def _conv_norm(path: str, outputs: str, inputs: str) -> Layer:
    return Layer(f"{path}.conv", f"{path}.bn", outputs, inputs, f"{path}.aa")


LAYERS: dict[str, tuple[Layer, ...]] = {
    "ConvBnAct": (Layer("conv", "bn1", EMBED, IN_EMBED, "aa"),),
    "DepthwiseSeparableConv": (
        Layer("conv_dw", "bn1", IN_EMBED, IN_EMBED, "aa"),
        Layer("conv_pw", "bn2", EMBED, IN_EMBED),
    ),
    "InvertedResidual": (
        Layer("conv_pw", "bn1", HIDDEN, IN_EMBED),
        Layer("conv_dw", "bn2", HIDDEN, HIDDEN, "aa"),
        Layer("conv_pwl", "bn3", EMBED, HIDDEN),
    ),
    "EdgeResidual": (
        Layer("conv_exp", "bn1", HIDDEN, IN_EMBED, "aa"),
        Layer("conv_pwl", "bn2", EMBED, HIDDEN),
    ),
    "UniversalInvertedResidual": (
        _conv_norm("dw_start", IN_EMBED, IN_EMBED),
        _conv_norm("pw_exp", HIDDEN, IN_EMBED),
        _conv_norm("dw_mid", HIDDEN, HIDDEN),
        _conv_norm("pw_proj", EMBED, HIDDEN),
        _conv_norm("dw_end", EMBED, EMBED),
    ),
}
"""By class of timm: the convolutions of a block, in order; attention is described apart."""


class MobileNetAdapter(Adapter):
    """Chains of ``timm.models.mobilenetv3.MobileNetV3``."""

    family = "mobilenetv3"
    model_class = "timm.models.mobilenetv3.MobileNetV3"
    any_side = True

    def parts(self, model: Any) -> list[Part]:
        """Stem, the blocks of every stage, head.

        Raises:
            NotElastic: The model has parts without named axes.
        """
        group = channels_per_group(model)
        stem = _stem(model)
        width = _width("stem.embed", stem, group)
        parts = [Part("stem", stem, {EMBED: width}, ". . .")]
        for number, stage in enumerate(model.blocks):
            blocks, width = _stage(f"blocks.{number}", list(stage), width, group)
            parts += blocks
        head = _head(model)
        elastic = {HIDDEN: Elastic("head.hidden", hidden_values(head.sizes[HIDDEN])), EMBED: width}
        parts.append(Part("head", head, elastic, f"{EMBED} . .", notes=_notes(model.modules())))
        for part in parts:
            part.table.check()
        return parts


def run_stem(model: Any, x_BCHW: Tensor) -> Tensor:
    """Images to the map in front of the first block."""
    map_BCHW: Tensor = model.forward_features(x_BCHW)
    return map_BCHW


def run_head(model: Any, x_BCHW: Tensor) -> Tensor:
    """The last stage's map to logits."""
    logits_BK: Tensor = model.forward_head(x_BCHW)
    return logits_BK


def _stem(model: Any) -> AxesTable:
    table = AxesTable(shell(model, ("conv_stem", "bn1"), run_stem, blocks=nn.Sequential()))
    table.sizes[EMBED] = int(model.conv_stem.out_channels)
    table.linear("conv_stem", EMBED, ".")
    table.norm("bn1", EMBED)
    return table


def _head(model: Any) -> AxesTable:
    layers = ("global_pool", "conv_head", "norm_head", "act2", "flatten", "classifier")
    table = AxesTable(shell(model, layers, run_head, blocks=nn.Sequential()))
    poolings = model.global_pool.feat_mult()
    table.sizes |= {EMBED: model.num_features, HIDDEN: model.head_hidden_size, "pooling": poolings}
    table.linear("conv_head", HIDDEN, f"(pooling {EMBED})")
    table.norm("norm_head", HIDDEN)
    table.linear("classifier", ".", HIDDEN)
    table.attribute("", num_features=EMBED, head_hidden_size=HIDDEN)  # which `reset_classifier` reads
    return table


def _stage(stage: str, blocks: list[Any], width: Elastic, group: int) -> tuple[list[Part], Elastic]:
    """The blocks of a stage, and the width that it ends with."""
    begins = [number for number, block in enumerate(blocks) if not block.has_skip]
    depth = f"{stage}.depth" if len(blocks) - len(begins) > 1 else ""
    parts = []
    for number, block in enumerate(blocks):
        name = f"{stage}.{number}"
        table = _describe(block)
        elastic = _own_sizes(name, table, group)
        if number in begins:
            elastic[IN_EMBED] = width
            width = _width(f"{stage if number == begins[-1] else name}.embed", table, group)
        elastic[EMBED] = width
        flow = f"{IN_EMBED if number in begins else EMBED} . ."
        parts.append(Part(name, table, elastic, flow, removable=depth if block.has_skip else "", own_path=name))
    return parts, width


def _width(choice: str, table: AxesTable, group: int) -> Elastic:
    return Elastic(choice, _whole_groups(width_values(table.sizes[EMBED], WIDTH_STEP), group))


def _own_sizes(name: str, table: AxesTable, group: int) -> dict[str, Elastic]:
    """The sizes inside a block. They come first: others meet in products with them alone."""
    elastic = {}
    if HIDDEN in table.sizes:
        elastic[HIDDEN] = Elastic(f"{name}.hidden", _whole_groups(hidden_values(table.sizes[HIDDEN]), group))
    if HEAD in table.sizes:
        elastic[HEAD] = Elastic(f"{name}.heads", count_values(table.sizes[HEAD]))
    return elastic


def _whole_groups(values: tuple[int, ...], group: int) -> tuple[int, ...]:
    return tuple(value for value in values if value % group == 0 or value == values[-1])


def _describe(block: Any) -> AxesTable:
    """The axes of a block; one with a shortcut has one width only.

    Raises:
        NotElastic: The block, its attention or its squeeze-and-excitation is of another kind.
    """
    kind = type(block).__name__
    table = AxesTable(block)
    width = EMBED if block.has_skip else IN_EMBED
    if kind == "MobileAttention":
        _attention(table, block, width)
    elif kind in LAYERS:
        for layer in LAYERS[kind]:
            inputs, outputs = (width if axis == IN_EMBED else axis for axis in (layer.inputs, layer.outputs))
            _layer(table, layer, outputs, inputs)
        _squeeze_excite(table, "se", HIDDEN if HIDDEN in table.sizes else width)
    else:
        raise NotElastic(f"its blocks are `{kind}`s, whose convolutions have no named axes")
    table.scale("layer_scale", EMBED)
    return table


def _layer(table: AxesTable, layer: Layer, outputs: str, inputs: str) -> None:
    found: Any = table.layer(layer.convolution)
    if found is None:
        return
    table.sizes |= {inputs: found.in_channels, outputs: found.out_channels}
    convolution(table, layer.convolution, outputs, inputs)
    table.norm(layer.norm, outputs)
    blur_pool(table, layer.blur, outputs)


def _attention(table: AxesTable, block: Any, width: str) -> None:
    """Attention of many queries to one key and one value, which see fewer positions where they have a stride."""
    attention = block.attn
    if type(attention).__name__ != "MultiQueryAttention2d":
        raise NotElastic(f"`attn` is a `{type(attention).__name__}`, whose heads have no named axes")
    table.sizes |= {HEAD: attention.num_heads, "key": attention.key_dim, "value": attention.value_dim}
    table.sizes |= {width: attention.query.proj.in_channels, EMBED: attention.output.proj.out_channels}
    convolution(table, "conv_cpe_dw", width, width)
    table.norm("norm", width)
    table.norm("attn.query.norm", width)
    table.linear("attn.query.proj", f"({HEAD} key)", width)
    for name in ("key", "value"):
        convolution(table, f"attn.{name}.down_conv", width, width)
        table.norm(f"attn.{name}.norm", width)
        table.linear(f"attn.{name}.proj", name, width)
    table.linear("attn.output.proj", EMBED, f"({HEAD} value)")
    table.attribute("attn", num_heads=HEAD)


def _squeeze_excite(table: AxesTable, path: str, channels: str) -> None:
    layer = table.layer(path)
    if layer is None:
        return
    if type(layer).__name__ != "SqueezeExcite":
        raise NotElastic(f"`{path}` is a `{type(layer).__name__}`, whose channels have no named axes")
    table.linear(f"{path}.conv_reduce", ".", channels)
    table.linear(f"{path}.conv_expand", channels, ".")


def _notes(modules: Iterable[nn.Module]) -> tuple[str, ...]:
    kinds = {type(module).__name__ for module in modules}
    notes = {"MultiQueryAttention2d": KEYS, "SqueezeExcite": SQUEEZE}
    return (KERNELS, *(note for kind, note in notes.items() if kind in kinds))
