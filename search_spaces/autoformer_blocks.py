"""Sizes and operators of the blocks of the AutoFormer family.

Source: Chen et al., "AutoFormer: Searching Transformers for Visual Recognition", ICCV 2021, arXiv 2107.00651. Between
blocks flow tokens ``(1 + side * side, channels)``: the class token, then the patches row by row. The patch embedding is
that of `search_spaces.resnas_blocks`.

Which row of a table of relative positions a pair of patches reads depends on their two rows, or their two columns,
alone. So positions are added row by row and column by column, in products of matrices of the grid's side.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.graph import SOURCE, Op, OpList
from search_spaces.resnas_blocks import PatchEmbed

TABLE_ROWS = 30
"""Rows of a table of relative positions: one for pairs with the class token, then offsets from -14 to 14."""


@dataclass(frozen=True)
class AutoformerLayer:
    """Attention with relative positions on keys and values, then a feed-forward network, each behind a layer norm.

    Attributes:
        side: Side of the map of patches.
        heads: Number of attention heads; together they may have more or fewer channels than ``width``.
        head_width: Channels of a head.
        hidden: Hidden channels of the feed-forward network.
    """

    side: int
    width: int
    heads: int
    head_width: int
    hidden: int

    @property
    def tokens(self) -> int:
        """Number of tokens, the class token included."""
        return 1 + self.side**2

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
        rows, logits = (self.heads, tokens, self.head_width), (self.heads, tokens, tokens)
        macs = self.heads * tokens * tokens * self.head_width
        last = ops.norm("attention.norm", SOURCE, "layer_norm", affine_channels=self.width)
        last = ops.linear("attention.qkv", last, 3 * inner)
        last = ops.append("attention.parts", "reshape", [last], (tokens, 3, self.heads, self.head_width))
        last = ops.append("attention.heads", "reshape", [last], (3, *rows), function="transpose")
        query = ops.append("attention.query_rows", "reshape", [last], rows, function="split")
        query = ops.append("attention.query", "multiply", [query], rows)
        key = ops.append("attention.key_rows", "reshape", [last], rows, function="split")
        key = ops.append("attention.key", "reshape", [key], (*rows[::2], tokens), function="transpose")
        value = ops.append("attention.value", "reshape", [last], rows, function="split")
        score = ops.append("attention.scores", "matmul", [query, key], logits, macs=macs)
        score = ops.add("attention.positioned_scores", score, self._key_positions(ops, query))
        score = ops.append("attention.softmax", "softmax", [score], logits)
        last = ops.append("attention.weighted_values", "matmul", [score, value], rows, macs=macs)
        last = ops.add("attention.positioned_values", last, self._value_positions(ops, score))
        last = ops.append("attention.merge", "reshape", [last], (tokens, inner), function="transpose")
        last = ops.linear("attention.project", last, self.width)
        return ops.add("attention.residual", SOURCE, last)

    def _key_positions(self, ops: OpList, query: str) -> str:
        side = self.side
        grid, sums = (self.heads, side, side, self.head_width), (self.heads, side, side, side, side)
        queries = ops.append("attention.queries_of_patches", "reshape", [query], grid, function="split")
        turned = ops.append("attention.queries_by_column", "reshape", [queries], grid, function="transpose")
        by_row = self._product(ops, "attention.keys_by_row", queries, side)
        by_column = self._product(ops, "attention.keys_by_column", turned, side)
        by_column = ops.append("attention.keys_by_row_again", "reshape", [by_column], sums[:-1], function="transpose")
        last = ops.append("attention.key_positions_of_patches", "add", [by_row, by_column], sums)
        padded = (self.heads, self.tokens, self.tokens)
        return ops.append("attention.key_positions", "reshape", [last], padded, function="pad")

    def _value_positions(self, ops: OpList, score: str) -> str:
        side, channels = self.side, self.head_width
        weights, sums = (self.heads, side, side, side, side), (self.heads, side, side, side)
        patches = ops.append("attention.weights_of_patches", "reshape", [score], weights, function="split")
        by_row = ops.append("attention.weights_of_rows", "pool", [patches], sums, function="average")
        by_column = ops.append("attention.weights_of_columns", "pool", [patches], sums, function="average")
        by_column = ops.append("attention.weights_by_column", "reshape", [by_column], sums, function="transpose")
        by_row = self._product(ops, "attention.values_by_row", by_row, channels)
        by_column = self._product(ops, "attention.values_by_column", by_column, channels)
        grid = (self.heads, side, side, channels)
        by_column = ops.append("attention.values_by_row_again", "reshape", [by_column], grid, function="transpose")
        last = ops.add("attention.value_positions_of_patches", by_row, by_column)
        padded = (self.heads, self.tokens, channels)
        return ops.append("attention.value_positions", "reshape", [last], padded, function="pad")

    def _product(self, ops: OpList, name: str, source: str, width: int) -> str:
        """A product with a table of relative positions, in the order that each row or column reads it."""
        shape = ops.shape(source)
        macs = self.heads * self.side * self.side * shape[-1] * width
        table = TABLE_ROWS * self.head_width
        return ops.append(name, "linear", [source], (*shape[:-1], width), macs=macs, params=table)


@dataclass(frozen=True)
class Head:
    """Layer norm, mean of the patches' tokens without the class token, a linear classifier.

    Attributes:
        side: Side of the map of patches.
    """

    side: int
    width: int
    classes: int

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = OpList((1 + self.side**2, self.width))
        last = ops.append("patches", "reshape", [SOURCE], (self.side**2, self.width), function="split")
        last = ops.norm("norm", last, "layer_norm", affine_channels=self.width)
        last = ops.append("pool", "pool", [last], (self.width,), function="average")
        ops.linear("classifier", last, self.classes)
        return ops.ops


AutoformerBlock = PatchEmbed | AutoformerLayer | Head
