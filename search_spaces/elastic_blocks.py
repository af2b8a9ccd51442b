"""Sizes and operators of the blocks of the ElasticViT family.

Source: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse
Mobile Devices", ICCV 2023. Feature maps are ``(channels, side, side)`` throughout: a linear layer over tokens is a
convolution with a 1x1 kernel over the map.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.graph import SOURCE, Op, OpList

ACTIVATION = "hard_swish"


@dataclass(frozen=True)
class FirstConv:
    """The first convolution: 3x3, batch norm, activation.

    Attributes:
        side: Side of the image in pixels.
    """

    side: int
    width: int
    stride: int

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((3, self.side, self.side))
        last = ops.conv("conv", SOURCE, self.width, kernel=3, stride=self.stride)
        last = ops.norm("norm", last, "batch_norm", affine_channels=self.width)
        ops.activation("activation", last, ACTIVATION)
        return ops.ops


@dataclass(frozen=True)
class StemBlock:
    """A separable convolution with an identity shortcut: depthwise, norm, activation, pointwise, norm."""

    side: int
    width: int
    kernel: int

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.width, self.side, self.side))
        last = ops.depthwise_conv("depthwise", SOURCE, kernel=self.kernel)
        last = ops.norm("depthwise_norm", last, "batch_norm", affine_channels=self.width)
        last = ops.activation("depthwise_activation", last, ACTIVATION)
        last = ops.conv("project", last, self.width)
        last = ops.norm("project_norm", last, "batch_norm", affine_channels=self.width)
        ops.add("residual", SOURCE, last)
        return ops.ops


@dataclass(frozen=True)
class ConvBlock:
    """An inverted residual whose shortcut survives strides and changes of width.

    The expansion multiplies the *input* width. The shortcut is the identity, with an average pool in front where the
    stride is 2 and a plain 1x1 convolution behind where the width changes.

    Attributes:
        side: Side of the input map.
    """

    side: int
    in_width: int
    width: int
    expansion: int
    kernel: int
    stride: int
    squeeze_excite: bool

    @property
    def hidden(self) -> int:
        """Channels of the depthwise convolution."""
        return self.in_width * self.expansion

    @property
    def out_side(self) -> int:
        """Side of the output map."""
        return -(-self.side // self.stride)

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.in_width, self.side, self.side))
        last = ops.conv("expand", SOURCE, self.hidden)
        last = ops.norm("expand_norm", last, "batch_norm", affine_channels=self.hidden)
        last = ops.activation("expand_activation", last, ACTIVATION)
        last = ops.depthwise_conv("depthwise", last, kernel=self.kernel, stride=self.stride)
        last = ops.norm("depthwise_norm", last, "batch_norm", affine_channels=self.hidden)
        last = ops.activation("depthwise_activation", last, ACTIVATION)
        if self.squeeze_excite:
            last = self._squeeze_excite(ops, last)
        last = ops.conv("project", last, self.width)
        last = ops.norm("project_norm", last, "batch_norm", affine_channels=self.width)
        ops.add("residual", self._shortcut(ops), last)
        return ops.ops

    def _squeeze_excite(self, ops: OpList, source: str) -> str:
        squeezed = ops.append("squeeze.pool", "pool", [source], (self.hidden, 1, 1), function="global")
        squeezed = ops.conv("squeeze.reduce", squeezed, self.hidden // 4, bias=True)
        squeezed = ops.activation("squeeze.activation", squeezed, "relu")
        squeezed = ops.conv("squeeze.expand", squeezed, self.hidden, bias=True)
        squeezed = ops.activation("squeeze.gate", squeezed, "hard_sigmoid")
        return ops.append("squeeze.scale", "multiply", [source, squeezed], ops.shape(source))

    def _shortcut(self, ops: OpList) -> str:
        shortcut = SOURCE
        if self.stride > 1:
            shape = (self.in_width, self.out_side, self.out_side)
            shortcut = ops.append(
                "shortcut.pool", "pool", [shortcut], shape, function="average", kernel=2, stride=self.stride
            )
        if self.in_width != self.width:
            shortcut = ops.conv("shortcut.conv", shortcut, self.width)
        return shortcut


@dataclass(frozen=True)
class TransformerLayer:
    """Attention over all tokens, then a feed-forward network, each behind a norm over tokens and channels together.

    Attributes:
        side: Side of the map; tokens are its square.
        v_scale: Value channels per query channel.
        mlp_ratio: Hidden channels of the feed-forward network per channel.
        head_width: Query and key channels of a head.
    """

    side: int
    width: int
    v_scale: int
    mlp_ratio: int
    head_width: int

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.head_width

    @property
    def value_width(self) -> int:
        """Value channels of all heads together."""
        return self.width * self.v_scale

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((self.width, self.side, self.side))
        attended = self._attention(ops)
        last = ops.norm("feed_forward.norm", attended, "group_norm", affine_channels=self.width)
        last = ops.conv("feed_forward.expand", last, self.width * self.mlp_ratio, bias=True)
        last = ops.activation("feed_forward.activation", last, ACTIVATION)
        last = ops.conv("feed_forward.project", last, self.width, bias=True)
        ops.add("feed_forward.residual", attended, last)
        return ops.ops

    def _attention(self, ops: OpList) -> str:
        tokens, heads = self.side * self.side, self.heads
        value_map = (self.value_width, self.side, self.side)
        logits = (heads, tokens, tokens)
        last = ops.norm("attention.norm", SOURCE, "group_norm", affine_channels=self.width)
        qkv = ops.conv("attention.qkv", last, 2 * self.width + self.value_width)
        query = ops.append("attention.query", "reshape", [qkv], (heads, tokens, self.head_width), function="transpose")
        key = ops.append("attention.key", "reshape", [qkv], (heads, self.head_width, tokens), function="split")
        value = ops.append("attention.value", "reshape", [qkv], value_map, function="split")
        value = ops.depthwise_conv("attention.value_conv", value, kernel=3)
        score = ops.append(
            "attention.scores", "matmul", [query, key], logits, macs=heads * tokens * tokens * self.head_width
        )
        table = (2 * self.side - 1) ** 2 * heads
        score = ops.append("attention.position_bias", "add", [score], logits, params=table)
        score = ops.append("attention.softmax", "softmax", [score], logits)
        last = ops.append(
            "attention.weighted_values", "matmul", [value, score], value_map, macs=tokens * tokens * self.value_width
        )
        last = ops.activation("attention.activation", last, ACTIVATION)
        last = ops.conv("attention.project", last, self.width, bias=True)
        return ops.add("attention.residual", SOURCE, last)


@dataclass(frozen=True)
class Head:
    """Widen, norm, activate, average over tokens, widen, activate, classify."""

    side: int
    width: int
    expansion: int
    features: int
    classes: int

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        hidden = self.width * self.expansion
        ops = OpList((self.width, self.side, self.side))
        last = ops.conv("expand", SOURCE, hidden, bias=True)
        last = ops.norm("norm", last, "batch_norm", affine_channels=hidden)
        last = ops.activation("activation", last, ACTIVATION)
        last = ops.append("pool", "pool", [last], (hidden,), function="global")
        last = ops.linear("features", last, self.features)
        last = ops.activation("features_activation", last, ACTIVATION)
        ops.linear("classifier", last, self.classes)
        return ops.ops


ElasticBlock = FirstConv | StemBlock | ConvBlock | TransformerLayer | Head
