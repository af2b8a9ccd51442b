"""ViT-ResNAS as an ordinary PyTorch module. This file needs nothing but torch and travels beside exported weights.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642.
Load an exported folder with::

    import json, safetensors.torch
    from resnas import ResnasNetwork

    model = ResnasNetwork(json.load(open("config.json"))["network"]).eval()
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Shape letters: B batch, C channels, H and W sides of a map, N tokens (T class tokens, then P patches), G heads,
D channels of a head, E channels of all heads, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenLogits(NamedTuple):
    """What a network with a patch classifier returns while it is trained.

    Attributes:
        logits_BK: Logits of the images.
        patches_BPK: Logits of the patches of the last stage, row by row.
    """

    logits_BK: Tensor
    patches_BPK: Tensor


class ConvNorm(nn.Module):
    """3x3 convolution without bias, batch norm, ReLU."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, in_width, side, side)`` to ``(B, width, side / stride, side / stride)``."""
        return F.relu(self.norm(self.conv(x_BCHW)))


class ConvStem(nn.Module):
    """A convolution of stride 2, then two more with a shortcut over both."""

    def __init__(self, side: int, width: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(3, width, 2)
        self.refine1 = ConvNorm(width, width, 1)
        self.refine2 = ConvNorm(width, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, 3, side, side)`` to ``(B, width, side / 2, side / 2)``."""
        x_BCHW = self.reduce(x_BCHW)
        y_BCHW: Tensor = self.refine2(self.refine1(x_BCHW))
        return y_BCHW + x_BCHW


class PatchEmbed(nn.Module):
    """Patches as tokens behind learned class tokens, plus learned positions."""

    def __init__(self, side: int, in_channels: int, width: int, patch: int, class_tokens: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, class_tokens, width))
        self.position_embedding = nn.Parameter(torch.empty(1, class_tokens + (side // patch) ** 2, width))
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, in_channels, side, side)`` to tokens ``(B, N, width)``."""
        patches_BPC = self.conv(x_BCHW).flatten(2).transpose(1, 2)
        class_BTC = self.class_token.expand(patches_BPC.shape[0], -1, -1)
        return torch.cat([class_BTC, patches_BPC], dim=1) + self.position_embedding


class Attention(nn.Module):
    """Multi-head attention over all tokens; heads together need not have as many channels as the embedding."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.project = nn.Linear(heads * head_width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        batch, tokens, _ = x_BNC.shape
        parts = self.qkv(x_BNC).reshape(batch, tokens, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        q_BGND, k_BGND, v_BGND = parts.unbind(0)
        mixed_BGND = F.scaled_dot_product_attention(q_BGND, k_BGND, v_BGND)
        y_BNC: Tensor = self.project(mixed_BGND.transpose(1, 2).reshape(batch, tokens, -1))
        return y_BNC


class FeedForward(nn.Module):
    """Two linear layers on every token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        y_BNC: Tensor = self.project(F.gelu(self.expand(x_BNC)))
        return y_BNC


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each behind a layer norm, each skipped by some images while it is trained."""

    def __init__(
        self,
        side: int,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        class_tokens: int,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, head_width)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-6)
        self.feed_forward = FeedForward(width, hidden)
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        x_BNC = x_BNC + self._drop(self.attention(self.attention_norm(x_BNC)))
        return x_BNC + self._drop(self.feed_forward(self.feed_forward_norm(x_BNC)))

    def _drop(self, branch_BNC: Tensor) -> Tensor:
        """Stochastic depth: zero for some images, the others larger by as much."""
        if not self.training or self.drop_path == 0.0:
            return branch_BNC
        kept = 1.0 - self.drop_path
        kept_B11 = branch_BNC.new_empty(branch_BNC.shape[0], 1, 1).bernoulli_(kept)
        return branch_BNC * kept_B11 / kept


class Reduction(nn.Module):
    """Residual spatial reduction: half the side, more channels; the input survives, pooled and padded with zeros."""

    def __init__(self, side: int, in_width: int, width: int, class_tokens: int) -> None:
        super().__init__()
        self.side, self.class_tokens = side, class_tokens
        self.more_channels = width - in_width
        self.norm = nn.LayerNorm(in_width, eps=1e-6)
        self.conv = nn.Conv2d(in_width, width, 3, 2, padding=1)
        self.position_embedding = nn.Parameter(torch.empty(1, (side // 2) ** 2, width))
        self.project = nn.Linear(in_width, width)
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """``(B, T + side * side, in_width)`` to ``(B, T + side * side / 4, width)``."""
        y_BNC = self.norm(x_BNC)
        (x_BTC, x_BCHW), (y_BTC, y_BCHW) = self._apart(x_BNC), self._apart(y_BNC)
        kept_BCHW = F.pad(F.avg_pool2d(x_BCHW, 2), (0, 0, 0, 0, 0, self.more_channels))
        patches_BPC = (self.conv(y_BCHW) + kept_BCHW).flatten(2).transpose(1, 2) + self.position_embedding
        class_BTC = self.project(y_BTC) + F.pad(x_BTC, (0, self.more_channels))
        return torch.cat([class_BTC, patches_BPC], dim=1)

    def _apart(self, x_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """The class tokens, and the patches as a map."""
        map_BCHW = x_BNC[:, self.class_tokens :].transpose(1, 2).reshape(x_BNC.shape[0], -1, self.side, self.side)
        return x_BNC[:, : self.class_tokens], map_BCHW


class Head(nn.Module):
    """Layer norm and a classifier for the class token, one for a distillation token, one for patches in training."""

    def __init__(self, side: int, width: int, classes: int, class_tokens: int, patch_classifier: bool = False) -> None:
        super().__init__()
        self.class_tokens = class_tokens
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, classes)
        self.distillation_classifier = nn.Linear(width, classes) if class_tokens > 1 else None
        self.patch_classifier = nn.Linear(width, classes) if patch_classifier else None
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor | TokenLogits:
        """``(B, N, width)`` to logits ``(B, K)``, in training with those of the patches where they are classified."""
        if self.patch_classifier is None or not self.training:
            return self._classify(self.norm(x_BNC[:, : self.class_tokens]))
        y_BNC = self.norm(x_BNC)
        return TokenLogits(self._classify(y_BNC), self.patch_classifier(y_BNC[:, self.class_tokens :]))

    def _classify(self, y_BNC: Tensor) -> Tensor:
        logits_BK: Tensor = self.classifier(y_BNC[:, 0])
        if self.distillation_classifier is None:
            return logits_BK
        distilled_BK: Tensor = self.distillation_classifier(y_BNC[:, 1])
        return (logits_BK + distilled_BK) / 2


BLOCKS: dict[str, type[nn.Module]] = {
    block.__name__: block for block in (ConvStem, PatchEmbed, TransformerLayer, Reduction, Head)
}


def resize_images(x_BCHW: Tensor, side: int) -> Tensor:
    """Images of any side to ``side`` pixels, bicubic without anti-aliasing."""
    if x_BCHW.shape[-2:] == (side, side):
        return x_BCHW
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", align_corners=False)


class ResnasNetwork(nn.Module):
    """One network of the family.

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

    def forward(self, x_BCHW: Tensor) -> Tensor | TokenLogits:
        """Images ``(B, 3, H, W)`` of any side to logits ``(B, K)``, or in training to `TokenLogits`, see `Head`."""
        logits: Tensor | TokenLogits = self.get_submodule(self.block_names[-1])(self.forward_features(x_BCHW))
        return logits

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images to the last stage's tokens ``(B, N, C)``, in front of the last layer norm."""
        x = resize_images(x_BCHW, self.input_side)
        for name in self.block_names[:-1]:
            x = self.get_submodule(name)(x)
        return x

    def _place(self, name: str, block: nn.Module) -> None:
        parent_name, _, leaf = name.rpartition(".")
        if parent_name and not hasattr(self, parent_name):
            self.add_module(parent_name, nn.Module())
        self.get_submodule(parent_name).add_module(leaf, block)


def _initialise(block: nn.Module) -> None:
    """Truncated normals with deviation 0.02 for linear layers, class tokens and positions; convolutions keep theirs."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for parameter in block.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)
