"""AutoFormer as an ordinary PyTorch module. This file needs nothing but torch and travels beside exported weights.

Source: Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021, arXiv 2107.00651. Load an
exported folder with::

    import json, safetensors.torch
    from autoformer import Autoformer

    model = Autoformer(json.load(open("config.json"))["network"]).eval()
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Deviation from the reference implementation, equal but for rounding: what a table of relative positions adds is computed
row by row and column by column of the grid. A constant that softmax takes away is left out of the keys' positions, and
the one that all pairs share in the values' positions is added to the values' bias, since attention weights sum to 1.

Shape letters: B batch, C channels, H and W sides of a map, N tokens (the class token, then P patches), G heads,
D channels of a head, K classes; Y and X row and column of a query's patch, y and x those of a key's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FARTHEST = 14
"""Offset of two patches in rows or columns beyond which they count as so far apart."""


class PatchEmbed(nn.Module):
    """Patches as tokens behind a learned class token, plus learned positions."""

    def __init__(self, side: int, in_channels: int, width: int, patch: int, class_tokens: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.empty(1, class_tokens, width))
        self.position_embedding = nn.Parameter(torch.empty(1, class_tokens + (side // patch) ** 2, width))
        _initialise(self)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """``(B, in_channels, side, side)`` to tokens ``(B, N, width)``."""
        patches_BPC = self.conv(x_BCHW).flatten(2).transpose(1, 2)
        class_B1C = self.class_token.expand(patches_BPC.shape[0], -1, -1)
        return torch.cat([class_B1C, patches_BPC], dim=1) + self.position_embedding


class RelativePositions(nn.Module):
    """What a pair of tokens adds for being so many rows and columns apart; the heads of a block share it.

    Row 0 of both tables is for pairs with the class token, the others are for offsets from -14 to 14.
    """

    def __init__(self, side: int, head_width: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(2 * FARTHEST + 2, head_width))
        self.columns = nn.Parameter(torch.empty(2 * FARTHEST + 2, head_width))
        place = torch.arange(side, device="cpu")  # by name: it stays real where the block is built on the meta device
        offset = (place - place[:, None]).clamp(-FARTHEST, FARTHEST) + FARTHEST + 1
        self.register_buffer("offset", offset, persistent=False)
        _initialise(self)

    offset: Tensor

    def with_class_token(self) -> Tensor:
        """What pairs with the class token add, ``(D,)``."""
        return self.rows[0] + self.columns[0]

    def between_patches(self) -> tuple[Tensor, Tensor]:
        """How much more pairs of patches add: for their rows ``(Y, y, D)`` and for their columns ``(X, x, D)``."""
        return F.embedding(self.offset, self.rows - self.rows[0]), F.embedding(
            self.offset, self.columns - self.columns[0]
        )


class Attention(nn.Module):
    """Multi-head attention over all tokens, with relative positions on keys and values."""

    def __init__(self, side: int, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.side, self.heads, self.head_width = side, heads, head_width
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.key_positions = RelativePositions(side, head_width)
        self.value_positions = RelativePositions(side, head_width)
        self.project = nn.Linear(heads * head_width, width)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        batch, tokens, _ = x_BNC.shape
        value_E = self.value_positions.with_class_token().repeat(self.heads)
        bias_3E = self.qkv.bias + F.pad(value_E, (2 * len(value_E), 0))
        parts = F.linear(x_BNC, self.qkv.weight, bias_3E).reshape(batch, tokens, 3, self.heads, self.head_width)
        q_BGND, k_BGND, v_BGND = parts.permute(2, 0, 3, 1, 4).unbind(0)
        q_BGND = q_BGND * self.head_width**-0.5
        score_BGNN = q_BGND @ k_BGND.transpose(-2, -1) + self._of_keys(q_BGND)
        weight_BGNN = score_BGNN.softmax(dim=-1)
        mixed_BGND = weight_BGNN @ v_BGND + self._of_values(weight_BGNN)
        y_BNC: Tensor = self.project(mixed_BGND.transpose(1, 2).reshape(batch, tokens, -1))
        return y_BNC

    def _of_keys(self, q_BGND: Tensor) -> Tensor:
        """What positions add to the scores ``(B, G, N, N)``."""
        batch, heads, side, patches = q_BGND.shape[0], self.heads, self.side, self.side**2
        rows_YyD, columns_XxD = self.key_positions.between_patches()
        q_BGYXD = q_BGND[:, :, 1:].reshape(batch, heads, side, side, self.head_width)
        row_BGYXy = q_BGYXD @ rows_YyD.transpose(1, 2)
        column_BGYXx = (q_BGYXD.transpose(2, 3) @ columns_XxD.transpose(1, 2)).transpose(2, 3)
        pair_BGYXyx = row_BGYXy[..., None] + column_BGYXx[..., None, :]
        return F.pad(pair_BGYXyx.reshape(batch, heads, patches, patches), (1, 0, 1, 0))

    def _of_values(self, weight_BGNN: Tensor) -> Tensor:
        """What positions add to the weighted values ``(B, G, N, D)``."""
        batch, heads, side = weight_BGNN.shape[0], self.heads, self.side
        rows_YyD, columns_XxD = self.value_positions.between_patches()
        weight_BGYXyx = weight_BGNN[:, :, 1:, 1:].reshape(batch, heads, side, side, side, side)
        row_BGYXD = weight_BGYXyx.sum(dim=-1) @ rows_YyD
        column_BGYXD = (weight_BGYXyx.sum(dim=-2).transpose(2, 3) @ columns_XxD).transpose(2, 3)
        return F.pad((row_BGYXD + column_BGYXD).reshape(batch, heads, side**2, -1), (0, 0, 1, 0))


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


class AutoformerLayer(nn.Module):
    """Attention and feed-forward, each behind a layer norm."""

    def __init__(self, side: int, width: int, heads: int, head_width: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(side, width, heads, head_width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden)
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """Shape unchanged."""
        x_BNC = x_BNC + self.attention(self.attention_norm(x_BNC))
        y_BNC: Tensor = self.feed_forward(self.feed_forward_norm(x_BNC))
        return x_BNC + y_BNC


class Head(nn.Module):
    """Layer norm, mean of the patches without the class token, a linear classifier."""

    def __init__(self, side: int, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, classes)
        _initialise(self)

    def forward(self, x_BNC: Tensor) -> Tensor:
        """``(B, N, width)`` to logits ``(B, K)``."""
        logits_BK: Tensor = self.classifier(self.norm(x_BNC[:, 1:]).mean(dim=1))
        return logits_BK


BLOCKS: dict[str, type[nn.Module]] = {block.__name__: block for block in (PatchEmbed, AutoformerLayer, Head)}


def resize_images(x_BCHW: Tensor, side: int) -> Tensor:
    """Images of any side to ``side`` pixels, bicubic without anti-aliasing."""
    if x_BCHW.shape[-2:] == (side, side):
        return x_BCHW
    return F.interpolate(x_BCHW, size=(side, side), mode="bicubic", align_corners=False)


class Autoformer(nn.Module):
    """One network of the family.

    Args:
        config: ``input_side``, the side in pixels the network computes on, and ``blocks``, a list of objects with
            ``name`` (for example ``blocks.0``), ``kind`` (a key of `BLOCKS`) and the block's arguments.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.input_side = int(config["input_side"])
        self.block_names = [str(block["name"]) for block in config["blocks"]]
        for block in config["blocks"]:
            arguments = {name: value for name, value in block.items() if name not in ("name", "kind")}
            self._place(str(block["name"]), BLOCKS[block["kind"]](**arguments))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` of any side to logits ``(B, K)``."""
        logits_BK: Tensor = self.get_submodule(self.block_names[-1])(self.forward_features(x_BCHW))
        return logits_BK

    def forward_features(self, x_BCHW: Tensor) -> Tensor:
        """Images to the last tokens ``(B, N, C)``, in front of the last layer norm."""
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
    """Truncated normals with deviation 0.02 for linear layers, class token and positions; convolutions keep theirs."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for parameter in block.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)
