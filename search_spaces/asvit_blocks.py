"""Sizes and operators of the blocks of the As-ViT family.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921. Between blocks
flow tokens ``(side * side, channels)``, row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.graph import SOURCE, Op, OpList


@dataclass(frozen=True)
class PatchEmbed:
    """A strided convolution with bias, a layer norm, and a position embedding where there is a grid for it.

    Attributes:
        side: Side of the image in pixels.
        stride: Pixels from one patch to the next.
        dilation: Pixels from one tap of the kernel to the next.
        grid: Side of the position embedding; 0 for none. Where tokens are fewer it is averaged over what each covers.
    """

    side: int
    width: int
    kernel: int
    stride: int
    dilation: int
    grid: int

    @property
    def out_side(self) -> int:
        """Side of the map of tokens."""
        return -(-self.side // self.stride)

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((3, self.side, self.side))
        tokens = (self.out_side**2, self.width)
        last = ops.conv("conv", SOURCE, self.width, kernel=self.kernel, stride=self.stride, bias=True)
        last = ops.append("tokens", "reshape", [last], tokens, function="transpose")
        last = ops.norm("norm", last, "layer_norm", affine_channels=self.width)
        if self.grid:
            ops.append("position", "add", [last], tokens, params=self.grid**2 * self.width)
        return ops.ops


@dataclass(frozen=True)
class Reembed:
    """The entry of a stage: overlapping windows of tokens as vectors, a layer norm, a linear layer without bias.

    Attributes:
        side: Side of the map that comes in.
        kernel: Side of a window in tokens.
        stride: Tokens from one window to the next.
    """

    side: int
    in_width: int
    width: int
    kernel: int
    stride: int

    @property
    def out_side(self) -> int:
        """Side of the map that goes out."""
        return -(-self.side // self.stride)

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.side**2, self.in_width))
        window = self.in_width * self.kernel**2
        last = ops.append("unfold", "reshape", [SOURCE], (self.out_side**2, window), function="unfold")
        last = ops.norm("norm", last, "layer_norm", affine_channels=window)
        ops.linear("reduce", last, self.width, bias=False)
        return ops.ops


@dataclass(frozen=True)
class WindowLayer:
    """Attention within windows, then a feed-forward network, each behind a layer norm.

    Attributes:
        side: Side of the map; tokens are its square.
        heads: Number of attention heads; each has ``width // heads`` channels, so a few channels may be left over.
        splits: Windows per side of the map.
        expansion: Hidden channels of the feed-forward network per channel.
        head_groups: Runs of neighbouring heads that every network of a space has; a supernet narrows each run on its
            own. 1 where nothing is shared.
    """

    side: int
    width: int
    heads: int
    splits: int
    expansion: int
    head_groups: int = 1

    @property
    def head_width(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.side**2, self.width))
        attended = self._attention(ops)
        last = ops.norm("feed_forward.norm", attended, "layer_norm", affine_channels=self.width)
        last = ops.linear("feed_forward.expand", last, self.width * self.expansion)
        last = ops.activation("feed_forward.activation", last, "gelu")
        last = ops.linear("feed_forward.project", last, self.width)
        ops.add("feed_forward.residual", attended, last)
        return ops.ops

    def _attention(self, ops: OpList) -> str:
        tokens, matrices = (self.side // self.splits) ** 2, self.splits**2 * self.heads
        inner, logits = self.heads * self.head_width, (matrices, tokens, tokens)
        rows, columns = (matrices, tokens, self.head_width), (matrices, self.head_width, tokens)
        macs = matrices * tokens * tokens * self.head_width
        last = ops.norm("attention.norm", SOURCE, "layer_norm", affine_channels=self.width)
        qkv = ops.linear("attention.qkv", last, 3 * inner)
        query = ops.append("attention.query", "reshape", [qkv], rows, function="transpose")
        key = ops.append("attention.key", "reshape", [qkv], columns, function="transpose")
        value = ops.append("attention.value", "reshape", [qkv], rows, function="transpose")
        score = ops.append("attention.scores", "matmul", [query, key], logits, macs=macs)
        score = ops.append("attention.softmax", "softmax", [score], logits)
        last = ops.append("attention.weighted_values", "matmul", [score, value], rows, macs=macs)
        last = ops.append("attention.merge", "reshape", [last], (self.side**2, inner), function="transpose")
        last = ops.linear("attention.project", last, self.width)
        return ops.add("attention.residual", SOURCE, last)


@dataclass(frozen=True)
class Head:
    """Layer norm, mean over tokens, linear, tanh, classifier."""

    side: int
    width: int
    classes: int

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.side**2, self.width))
        last = ops.norm("norm", SOURCE, "layer_norm", affine_channels=self.width)
        last = ops.append("pool", "pool", [last], (self.width,), function="global")
        last = ops.linear("features", last, self.width)
        last = ops.activation("activation", last, "tanh")
        ops.linear("classifier", last, self.classes)
        return ops.ops


AsvitBlock = PatchEmbed | Reembed | WindowLayer | Head
