"""Sizes and operators of the blocks of the ViT-ResNAS family.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642.
Between blocks flow tokens ``(class_tokens + side * side, channels)``: first the class token, behind it a distillation
token where there are two, then the patches row by row.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.graph import SOURCE, Op, OpList


@dataclass(frozen=True)
class ConvStem:
    """Three 3x3 convolutions with batch norm and ReLU, the first of stride 2, and a shortcut over the other two.

    Attributes:
        side: Side of the image in pixels.
    """

    side: int
    width: int

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((3, self.side, self.side))
        shortcut = last = self._conv(ops, "reduce", SOURCE, stride=2)
        for name in ("refine1", "refine2"):
            last = self._conv(ops, name, last, stride=1)
        ops.add("residual", last, shortcut)
        return ops.ops

    def _conv(self, ops: OpList, name: str, source: str, stride: int) -> str:
        last = ops.conv(f"{name}.conv", source, self.width, kernel=3, stride=stride)
        last = ops.norm(f"{name}.norm", last, "batch_norm", affine_channels=self.width)
        return ops.activation(f"{name}.activation", last, "relu")


@dataclass(frozen=True)
class PatchEmbed:
    """Patches of a map as tokens, by a convolution whose stride is its kernel; class token; position embedding.

    Attributes:
        side: Side of the map that comes in: of the stem's, or of the image where there is no stem.
        in_channels: Channels of that map.
        patch: Side of a patch in entries of that map.
    """

    side: int
    in_channels: int
    width: int
    patch: int
    class_tokens: int

    @property
    def out_side(self) -> int:
        """Side of the map of patches."""
        return self.side // self.patch

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.in_channels, self.side, self.side))
        tokens = (self.class_tokens + self.out_side**2, self.width)
        last = ops.conv("conv", SOURCE, self.width, kernel=self.patch, stride=self.patch, bias=True)
        last = ops.append("tokens", "reshape", [last], (self.out_side**2, self.width), function="transpose")
        last = ops.append("class_token", "concatenate", [last], tokens, params=self.class_tokens * self.width)
        ops.append("position", "add", [last], tokens, params=tokens[0] * self.width)
        return ops.ops


@dataclass(frozen=True)
class TransformerLayer:
    """Attention over all tokens, then a feed-forward network, each behind a layer norm.

    Attributes:
        side: Side of the map of patches.
        heads: Number of attention heads; together they may have more or fewer channels than ``width``.
        head_width: Channels of a head.
        hidden: Hidden channels of the feed-forward network.
        drop_path: Probability, in training, that an image skips the attention, and again that it skips the
            feed-forward network.
    """

    side: int
    width: int
    heads: int
    head_width: int
    hidden: int
    class_tokens: int
    drop_path: float = 0.0

    @property
    def tokens(self) -> int:
        """Number of tokens, the class token included."""
        return self.class_tokens + self.side**2

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.tokens, self.width))
        attended = self._attention(ops)
        last = ops.norm("feed_forward.norm", attended, "layer_norm", affine_channels=self.width)
        last = ops.linear("feed_forward.expand", last, self.hidden)
        last = ops.activation("feed_forward.activation", last, "gelu")
        last = ops.linear("feed_forward.project", last, self.width)
        ops.add("feed_forward.residual", attended, last)
        return ops.ops

    def _attention(self, ops: OpList) -> str:
        tokens, inner = self.tokens, self.heads * self.head_width
        rows, columns = (self.heads, tokens, self.head_width), (self.heads, self.head_width, tokens)
        logits = (self.heads, tokens, tokens)
        macs = self.heads * tokens * tokens * self.head_width
        last = ops.norm("attention.norm", SOURCE, "layer_norm", affine_channels=self.width)
        last = ops.linear("attention.qkv", last, 3 * inner)
        last = ops.append("attention.parts", "reshape", [last], (tokens, 3, self.heads, self.head_width))
        last = ops.append("attention.heads", "reshape", [last], (3, *rows), function="transpose")
        query = ops.append("attention.query", "reshape", [last], rows, function="split")
        key = ops.append("attention.key_rows", "reshape", [last], rows, function="split")
        key = ops.append("attention.key", "reshape", [key], columns, function="transpose")
        value = ops.append("attention.value", "reshape", [last], rows, function="split")
        score = ops.append("attention.scores", "matmul", [query, key], logits, macs=macs)
        score = ops.append("attention.softmax", "softmax", [score], logits)
        last = ops.append("attention.weighted_values", "matmul", [score, value], rows, macs=macs)
        last = ops.append("attention.merge", "reshape", [last], (tokens, inner), function="transpose")
        last = ops.linear("attention.project", last, self.width)
        return ops.add("attention.residual", SOURCE, last)


@dataclass(frozen=True)
class Reduction:
    """Residual spatial reduction: half the side, more channels; the input survives, pooled and padded with zeros.

    Attributes:
        side: Side of the map of patches that comes in; an even number.
        width: Channels that go out, at least ``in_width``.
    """

    side: int
    in_width: int
    width: int
    class_tokens: int

    @property
    def out_side(self) -> int:
        """Side of the map of patches that goes out."""
        return self.side // 2

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.class_tokens + self.side**2, self.in_width))
        normed = ops.norm("norm", SOURCE, "layer_norm", affine_channels=self.in_width)
        patches = self._patches(ops, normed)
        classes = self._classes(ops, normed)
        tokens = (self.class_tokens + self.out_side**2, self.width)
        ops.append("tokens", "concatenate", [classes, patches], tokens)
        return ops.ops

    def _patches(self, ops: OpList, normed: str) -> str:
        grid = (self.in_width, self.side, self.side)
        pooled, padded = ((width, self.out_side, self.out_side) for width in (self.in_width, self.width))
        main = ops.append("patches.rows", "reshape", [normed], (self.side**2, self.in_width), function="split")
        main = ops.append("patches.map", "reshape", [main], grid, function="transpose")
        main = ops.conv("patches.conv", main, self.width, kernel=3, stride=2, bias=True)
        kept = ops.append("shortcut.rows", "reshape", [SOURCE], (self.side**2, self.in_width), function="split")
        kept = ops.append("shortcut.map", "reshape", [kept], grid, function="transpose")
        kept = ops.append("shortcut.pool", "pool", [kept], pooled, function="average", kernel=2, stride=2)
        if self.width > self.in_width:
            kept = ops.append("shortcut.pad", "reshape", [kept], padded, function="pad")
        last = ops.add("patches.residual", main, kept)
        tokens = (self.out_side**2, self.width)
        last = ops.append("patches.tokens", "reshape", [last], tokens, function="transpose")
        return ops.append("patches.position", "add", [last], tokens, params=tokens[0] * self.width)

    def _classes(self, ops: OpList, normed: str) -> str:
        narrow, wide = ((self.class_tokens, width) for width in (self.in_width, self.width))
        main = ops.append("classes.rows", "reshape", [normed], narrow, function="split")
        main = ops.linear("classes.project", main, self.width)
        kept = ops.append("classes.shortcut", "reshape", [SOURCE], narrow, function="split")
        if self.width > self.in_width:
            kept = ops.append("classes.pad", "reshape", [kept], wide, function="pad")
        return ops.add("classes.residual", main, kept)


@dataclass(frozen=True)
class Head:
    """Layer norm and a linear classifier on the class token; a second classifier on a distillation token, averaged.

    Attributes:
        side: Side of the map of patches.
        patch_classifier: Whether training also classifies every patch, by a linear layer that inference leaves out.
            Its parameters are not counted.
    """

    side: int
    width: int
    classes: int
    class_tokens: int
    patch_classifier: bool = False

    def ops(self) -> tuple[Op, ...]:
        """The operators of inference."""
        ops = OpList((self.class_tokens + self.side**2, self.width))
        tokens = (self.class_tokens, self.width)
        normed = ops.append("tokens", "reshape", [SOURCE], tokens, function="split")
        normed = ops.norm("norm", normed, "layer_norm", affine_channels=self.width)
        logits = []
        for name in ("class", "distillation")[: self.class_tokens]:
            token = ops.append(f"{name}.token", "reshape", [normed], (self.width,), function="split")
            logits.append(ops.linear(f"{name}.classifier", token, self.classes))
        if len(logits) > 1:
            total = ops.add("sum", *logits)
            ops.append("mean", "multiply", [total], (self.classes,))
        return ops.ops


ResnasBlock = ConvStem | PatchEmbed | TransformerLayer | Reduction | Head
