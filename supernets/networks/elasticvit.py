"""ElasticViT as an ordinary PyTorch module. This file needs nothing but torch and travels beside exported weights.

Source: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse
Mobile Devices", ICCV 2023. Load an exported folder with::

    import json, safetensors.torch
    from elasticvit import ElasticViT

    model = ElasticViT(json.load(open("config.json"))["network"]).eval()
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Deviation from the reference implementation: query, key and value channels are grouped per head in the weights of the
fused projection, so that a prefix of the heads and of each head's channels is a smaller network. For a stand-alone
network the two layouts differ by a permutation.

Shape letters: B batch, C channels, H and W sides of the map, N tokens (H * W), G heads, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FirstConv(nn.Module):
    """3x3 convolution, batch norm, hard-swish."""

    def __init__(self, side: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, 3, side, side)`` to ``(B, width, side / stride, side / stride)``."""
        y_BCHW: Tensor = self.norm(self.conv(x_BCHW))
        return F.hardswish(y_BCHW)


class StemBlock(nn.Module):
    """Separable convolution with an identity shortcut."""

    def __init__(self, side: int, width: int, kernel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(width)
        self.project = nn.Conv2d(width, width, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        hidden_BCHW = F.hardswish(self.depthwise_norm(self.depthwise(x_BCHW)))
        y_BCHW: Tensor = self.project_norm(self.project(hidden_BCHW))
        return x_BCHW + y_BCHW


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        mean_BC11 = F.adaptive_avg_pool2d(x_BCHW, 1)
        return x_BCHW * F.hardsigmoid(self.expand(F.relu(self.reduce(mean_BC11))))


class ConvBlock(nn.Module):
    """Inverted residual whose shortcut pools where the stride is 2 and projects where the width changes."""

    def __init__(
        self, side: int, in_width: int, width: int, expansion: int, kernel: int, stride: int, squeeze_excite: bool
    ) -> None:
        super().__init__()
        hidden = in_width * expansion
        self.expand = nn.Conv2d(in_width, hidden, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, padding=kernel // 2, groups=hidden, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.squeeze = SqueezeExcite(hidden) if squeeze_excite else nn.Identity()
        self.project = nn.Conv2d(hidden, width, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(width)
        self.shortcut_pool = nn.AvgPool2d(2, stride, padding=side % 2) if stride > 1 else nn.Identity()
        self.shortcut = nn.Conv2d(in_width, width, 1, bias=False) if in_width != width else nn.Identity()
        if stride == 1:
            nn.init.zeros_(self.project_norm.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, in_width, side, side)`` to ``(B, width, side / stride, side / stride)``, sides rounded up."""
        hidden_BCHW = F.hardswish(self.expand_norm(self.expand(x_BCHW)))
        hidden_BCHW = F.hardswish(self.depthwise_norm(self.depthwise(hidden_BCHW)))
        main_BCHW: Tensor = self.project_norm(self.project(self.squeeze(hidden_BCHW)))
        shortcut_BCHW: Tensor = self.shortcut(self.shortcut_pool(x_BCHW))
        return shortcut_BCHW + main_BCHW


class Attention(nn.Module):
    """Multi-head attention over a map, with a convolution on the values and learned relative position biases."""

    def __init__(self, side: int, width: int, v_scale: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width, self.value_width = width // head_width, head_width, v_scale * head_width
        self.qkv = nn.Conv2d(width, self.heads * (2 * head_width + self.value_width), 1, bias=False)
        values = self.heads * self.value_width
        self.value_conv = nn.Conv2d(values, values, 3, padding=1, groups=values, bias=False)
        self.position_bias = nn.Parameter(torch.zeros(2 * side - 1, 2 * side - 1, self.heads))
        self.project = nn.Conv2d(values, width, 1)
        # On the CPU by name: it stays a real tensor where the block is built on the meta device.
        self.register_buffer("position_index", _position_index(side), persistent=False)

    position_index: Tensor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        batch, _, height, width = x_BCHW.shape
        heads, value_width, tokens = self.heads, self.value_width, height * width
        qkv_BGDN = self.qkv(x_BCHW).reshape(batch, heads, -1, tokens)
        q_BGDN, k_BGDN, v_BGDN = qkv_BGDN.split([self.head_width, self.head_width, value_width], dim=2)
        v_BCHW = self.value_conv(v_BGDN.reshape(batch, heads * value_width, height, width))
        v_BGDN = v_BCHW.reshape(batch, heads, value_width, tokens)
        bias_NNG = F.embedding(self.position_index, self.position_bias.reshape(-1, heads))
        score_BGNN = (q_BGDN * self.head_width**-0.5).transpose(-2, -1) @ k_BGDN + bias_NNG.permute(2, 0, 1)
        mixed_BGDN = v_BGDN @ score_BGNN.softmax(dim=-1).transpose(-2, -1)
        y_BCHW: Tensor = self.project(F.hardswish(mixed_BGDN.reshape(batch, heads * value_width, height, width)))
        return y_BCHW


class FeedForward(nn.Module):
    """Two linear layers on every token."""

    def __init__(self, width: int, mlp_ratio: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, width * mlp_ratio, 1)
        self.project = nn.Conv2d(width * mlp_ratio, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        y_BCHW: Tensor = self.project(F.hardswish(self.expand(x_BCHW)))
        return y_BCHW


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each behind a norm whose statistics span all tokens and channels of a sample."""

    def __init__(self, side: int, width: int, v_scale: int, mlp_ratio: int, head_width: int) -> None:
        super().__init__()
        self.attention_norm = nn.GroupNorm(1, width)
        self.attention = Attention(side, width, v_scale, head_width)
        self.feed_forward_norm = nn.GroupNorm(1, width)
        self.feed_forward = FeedForward(width, mlp_ratio)
        _initialise_linear(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        x_BCHW = x_BCHW + self.attention(self.attention_norm(x_BCHW))
        y_BCHW: Tensor = self.feed_forward(self.feed_forward_norm(x_BCHW))
        return x_BCHW + y_BCHW


class Head(nn.Module):
    """Widen, normalise, average over tokens, widen, classify."""

    def __init__(self, side: int, width: int, expansion: int, features: int, classes: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, width * expansion, 1)
        self.norm = nn.BatchNorm2d(width * expansion)
        self.features = nn.Linear(width * expansion, features)
        self.classifier = nn.Linear(features, classes)
        _initialise_linear(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, width, side, side)`` to logits ``(B, classes)``."""
        mean_BC = F.hardswish(self.norm(self.expand(x_BCHW))).mean(dim=(2, 3))
        logits_BC: Tensor = self.classifier(F.hardswish(self.features(mean_BC)))
        return logits_BC


BLOCKS: dict[str, type[nn.Module]] = {
    block.__name__: block for block in (FirstConv, StemBlock, ConvBlock, TransformerLayer, Head)
}


def resize_images(x_BCHW: Tensor, side: int) -> Tensor:
    """Images of any side to ``side`` pixels, bicubic without anti-aliasing, as ElasticViT resizes inside the model."""
    if x_BCHW.shape[-2:] == (side, side):
        return x_BCHW
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", align_corners=False)


class ElasticViT(nn.Module):
    """One network of the family.

    Args:
        config: ``input_side``, the side in pixels the network computes on, and ``blocks``, a list of objects with
            ``name`` (for example ``T1.0``), ``kind`` (a key of `BLOCKS`) and the block's arguments.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.input_side = int(config["input_side"])
        self.block_names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            arguments = {name: value for name, value in block.items() if name not in ("name", "kind")}
            self._place(str(block["name"]), BLOCKS[block["kind"]](**arguments))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` of any side to logits ``(B, classes)``."""
        x_BCHW = resize_images(x_BCHW, self.input_side)
        for name in self.block_names:
            x_BCHW = self.get_submodule(name)(x_BCHW)
        return x_BCHW

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images to the last feature map ``(B, C, H, W)``, in front of the head."""
        x_BCHW = resize_images(x_BCHW, self.input_side)
        for name in self.block_names[:-1]:
            x_BCHW = self.get_submodule(name)(x_BCHW)
        return x_BCHW

    def _place(self, name: str, block: nn.Module) -> None:
        parent_name, _, leaf = name.rpartition(".")
        if parent_name and not hasattr(self, parent_name):
            self.add_module(parent_name, nn.Module())
        self.get_submodule(parent_name).add_module(leaf, block)


def _position_index(side: int) -> Tensor:
    """Row of the flattened bias table for each pair of tokens, ``(N, N)``: the offset from key to query."""
    y_NN, x_NN = (
        (axis.reshape(-1, 1) - axis.reshape(1, -1) + side - 1)
        for axis in torch.meshgrid(torch.arange(side, device="cpu"), torch.arange(side, device="cpu"), indexing="ij")
    )
    return y_NN * (2 * side - 1) + x_NN


def _initialise_linear(module: nn.Module) -> None:
    """Truncated normal weights with variance 1 / inputs, zero biases, position biases with deviation 0.02.

    The reference says nothing about the weights; a fixed deviation of 0.02 would silence layers of these widths.
    """
    for name, parameter in module.named_parameters():
        if name.endswith("position_bias"):
            nn.init.trunc_normal_(parameter, std=0.02)
        elif parameter.ndim > 1 and "value_conv" not in name:
            nn.init.trunc_normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
