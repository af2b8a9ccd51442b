"""As-ViT as an ordinary PyTorch module. This file needs nothing but torch and travels beside exported weights.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. Load an exported
folder with::

    import json, safetensors.torch
    from asvit import AsvitNetwork

    model = AsvitNetwork(json.load(open("config.json"))["network"]).eval()
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Shape letters: B batch, C channels, H and W sides of the map, N tokens (H * W), M tokens of a window, G heads,
D channels of a head, E channels of all heads or of all taps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Strided convolution, layer norm, learned positions where there is a ``grid`` for them."""

    def __init__(self, side: int, width: int, kernel: int, stride: int, dilation: int, grid: int) -> None:
        super().__init__()
        self.padding = _padding(side, stride, dilation * (kernel - 1) + 1)
        self.out_side = -(-side // stride)
        self.conv = nn.Conv2d(3, width, kernel, stride, dilation=dilation)
        self.norm = nn.LayerNorm(width)
        if grid:
            self.position_embedding = nn.Parameter(nn.init.trunc_normal_(torch.empty(grid, grid, width), std=0.02))
        else:
            self.register_parameter("position_embedding", None)

    position_embedding: Tensor | None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, 3, side, side)`` to tokens ``(B, N, width)``."""
        map_BCHW = self.conv(F.pad(x_BCHW, self.padding))
        tokens_BNC: Tensor = self.norm(map_BCHW.flatten(2).transpose(1, 2))
        return tokens_BNC if self.position_embedding is None else tokens_BNC + self._positions(self.position_embedding)

    def _positions(self, grid_HWC: Tensor) -> Tensor:
        """The mean over the positions that each token covers, where tokens are larger than in training's last phase."""
        if grid_HWC.shape[0] != self.out_side:
            grid_HWC = F.adaptive_avg_pool2d(grid_HWC.permute(2, 0, 1), self.out_side).permute(1, 2, 0)
        return grid_HWC.reshape(self.out_side**2, -1)


class Reembed(nn.Module):
    """Overlapping windows of tokens as vectors, layer norm, linear without bias."""

    def __init__(self, side: int, in_width: int, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.side, self.kernel, self.stride = side, kernel, stride
        self.padding = _padding(side, stride, kernel)
        self.norm = nn.LayerNorm(in_width * kernel * kernel)
        self.reduce = nn.Linear(in_width * kernel * kernel, width, bias=False)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """``(B, side * side, in_width)`` to ``(B, N, width)``."""
        map_BCHW = x_BNC.transpose(1, 2).reshape(x_BNC.shape[0], -1, self.side, self.side)
        windows_BEN = F.unfold(F.pad(map_BCHW, self.padding), self.kernel, stride=self.stride)
        y_BNC: Tensor = self.reduce(self.norm(windows_BEN.transpose(1, 2)))
        return y_BNC


class WindowAttention(nn.Module):
    """Multi-head attention inside the windows of a map that is cut ``splits`` times per side."""

    def __init__(self, side: int, width: int, heads: int, splits: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.splits, self.window = splits, side // splits
        self.qkv = nn.Linear(width, 3 * heads * self.head_width)
        self.project = nn.Linear(heads * self.head_width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        batch, tokens, _ = x_BNC.shape
        splits, window, heads = self.splits, self.window, self.heads
        parts = self.qkv(x_BNC).reshape(batch, splits, window, splits, window, 3, heads, self.head_width)
        parts = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, heads, window * window, self.head_width)
        q_BGMD, k_BGMD, v_BGMD = parts.unbind(0)  # B counts windows here
        mixed_BGMD = F.scaled_dot_product_attention(q_BGMD, k_BGMD, v_BGMD)
        map_BHWE = mixed_BGMD.reshape(batch, splits, splits, heads, window, window, self.head_width)
        y_BNC: Tensor = self.project(map_BHWE.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, tokens, -1))
        return y_BNC


class FeedForward(nn.Module):
    """Two linear layers on every token."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, width * expansion)
        self.project = nn.Linear(width * expansion, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        y_BNC: Tensor = self.project(F.gelu(self.expand(x_BNC)))
        return y_BNC


class WindowLayer(nn.Module):
    """Window attention and feed-forward, each behind a layer norm. ``head_groups`` matters to supernets only."""

    def __init__(self, side: int, width: int, heads: int, splits: int, expansion: int, head_groups: int = 1) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = WindowAttention(side, width, heads, splits)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, expansion)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        x_BNC = x_BNC + self.attention(self.attention_norm(x_BNC))
        y_BNC: Tensor = self.feed_forward(self.feed_forward_norm(x_BNC))
        return x_BNC + y_BNC


class Head(nn.Module):
    """Layer norm, mean over tokens, linear, tanh, classifier."""

    def __init__(self, side: int, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.features = nn.Linear(width, width)
        self.classifier = nn.Linear(width, classes)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """``(B, N, width)`` to logits ``(B, classes)``."""
        logits_BC: Tensor = self.classifier(self.features(self.norm(x_BNC).mean(dim=1)).tanh())
        return logits_BC


BLOCKS: dict[str, type[nn.Module]] = {block.__name__: block for block in (PatchEmbed, Reembed, WindowLayer, Head)}


def resize_images(x_BCHW: Tensor, side: int) -> Tensor:
    """Images of any side to ``side`` pixels, bicubic without anti-aliasing."""
    if x_BCHW.shape[-2:] == (side, side):
        return x_BCHW
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", align_corners=False)


class AsvitNetwork(nn.Module):
    """One network of the family, with weights as the reference draws them.

    Args:
        config: ``input_side``, the side in pixels the network computes on, and ``blocks``, a list of objects with
            ``name`` (for example ``stage1.0``), ``kind`` (a key of `BLOCKS`) and the block's arguments.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.input_side = int(config["input_side"])
        self.block_names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            arguments = {name: value for name, value in block.items() if name not in ("name", "kind")}
            self._place(str(block["name"]), BLOCKS[block["kind"]](**arguments))
        self.apply(_initialise)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` of any side to logits ``(B, classes)``."""
        logits_BC: Tensor = self.get_submodule(self.block_names[-1])(self.forward_features(x_BCHW))
        return logits_BC

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images to the last stage's tokens ``(B, N, C)``, in front of the last layer norm and the head."""
        x = resize_images(x_BCHW, self.input_side)
        for name in self.block_names[:-1]:
            x = self.get_submodule(name)(x)
        return x

    def _place(self, name: str, block: nn.Module) -> None:
        parent_name, _, leaf = name.rpartition(".")
        if parent_name and not hasattr(self, parent_name):
            self.add_module(parent_name, nn.Module())
        self.get_submodule(parent_name).add_module(leaf, block)


def _padding(side: int, stride: int, span: int) -> tuple[int, int, int, int]:
    """Zeros left, right, above and below, for one output per ``stride``; an odd one goes to the right and below."""
    outputs = -(-side // stride)
    total = max(0, (outputs - 1) * stride + span - side)
    before = total // 2
    return before, total - before, before, total - before


def _initialise(module: nn.Module) -> None:
    """Linear layers as in the reference; norms and the convolution keep PyTorch's own initialisation."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
