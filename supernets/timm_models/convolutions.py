"""Named axes of convolutional layers: dense, grouped and depthwise ones, and the batch norm that follows them.

These extend `AxesTable`, whose own methods know a dense convolution (`linear`) and a norm.
"""

from __future__ import annotations

from math import lcm
from typing import Any

from torch import nn

from supernets.timm_models.tables import AxesTable, NotElastic


def convolution(table: AxesTable, path: str, outputs: str, inputs: str) -> None:
    """A convolution of any number of groups; nothing where the model has none.

    A group keeps its size, so the inputs of a grouped convolution come in multiples of it (see `channels_per_group`)
    and, where it is larger than one, in an order that cannot be changed.

    Args:
        table: Table of the part.
        path: Path of the layer.
        outputs: Axes of its output channels: of a grouped convolution those of its inputs, or ``(inputs other)`` with
            ``other`` outputs for each.
        inputs: Axis of its input channels.

    Raises:
        NotElastic: The layer is no plain convolution, or its groups are those of other axes.
    """
    layer: Any = table.layer(path)
    if layer is None:
        return
    if not isinstance(layer, nn.Conv2d):
        raise NotElastic(f"`{path}` is a `{type(layer).__name__}`, expected a convolution")
    if layer.groups == 1:
        table.linear(path, outputs, inputs)
        return
    if outputs.strip("()").split()[0] != inputs:
        raise NotElastic(
            f"`{path}` has {layer.groups} groups, expected one, or groups of the channels that it puts out"
        )
    table.linear(path, outputs, ".")
    if layer.in_channels > layer.groups:
        table.in_order.add(inputs)


def convolution_norm(
    table: AxesTable, path: str, outputs: str, inputs: str, *, layer: str = "conv", norm: str = "bn"
) -> None:
    """A convolution and its norm, as two children of the module at ``path``; nothing where the model has none.

    Args:
        table: Table of the part.
        path: Path of the module that holds both.
        outputs: Axis of what comes out, as `convolution` takes it.
        inputs: Axis of what goes in, as `convolution` takes it.
        layer: Name of the convolution.
        norm: Name of the norm.

    Raises:
        NotElastic: As `convolution`; or the norm is of another kind.
    """
    if table.layer(path) is None:
        return
    convolution(table, f"{path}.{layer}", outputs, inputs)
    table.norm(f"{path}.{norm}", outputs)


def blur_pool(table: AxesTable, path: str, channels: str) -> None:
    """A `BlurPool2d`, whose filter stands there once for each channel; nothing where the model pools otherwise.

    Raises:
        NotElastic: It was made for another number of channels.
    """
    layer: Any = table.layer(path)
    own = getattr(layer, "channels", None)
    if own is None:
        return
    if own != table.sizes[channels]:
        raise NotElastic(f"`{path}` blurs {own} channels, expected {table.sizes[channels]}")
    table.tensor(f"{path}.filt", f"{channels} . . .")
    table.attribute(path, channels=channels)


def channels_per_group(module: nn.Module) -> int:
    """What the numbers of channels of all grouped convolutions inside ``module`` must be multiples of."""
    grouped = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    return lcm(*(layer.in_channels // layer.groups for layer in grouped))
