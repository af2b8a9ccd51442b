"""Operators on the tokens of a square map, of which the blocks of the `mixers` family are made."""

from __future__ import annotations

from collections.abc import Sequence

from search_spaces.graph import OpList, Shape


class TokenOps(OpList):
    """Operators on the tokens of a square map.

    Args:
        side: Side of the map.
        width: Channels that come in.
    """

    def __init__(self, side: int, width: int) -> None:
        super().__init__((side * side, width))
        self.side = side

    def move(self, name: str, source: str, shape: Shape, function: str = "transpose") -> str:
        """Transpose, split or pad."""
        return self.append(name, "reshape", [source], shape, function=function)

    def roll(self, name: str, source: str, shift: int) -> str:
        """The map moved by ``shift`` rows and columns: along each side two parts that change places."""
        channels = self.shape(source)[1]
        for axis in ("rows", "columns"):
            parts = [
                self.move(f"{name}.{axis}.{part}", source, (self.side * lines, channels), "split")
                for part, lines in enumerate((shift, self.side - shift))
            ]
            source = self.append(f"{name}.{axis}", "concatenate", parts, (self.side**2, channels))
        return source

    def map(self, name: str, source: str) -> str:
        """Tokens as a map."""
        return self.move(f"{name}.map", source, (self.shape(source)[1], self.side, self.side))

    def tokens(self, name: str, source: str) -> str:
        """A map as tokens."""
        channels, height, width = self.shape(source)
        return self.move(f"{name}.tokens", source, (height * width, channels))

    def depthwise(self, name: str, source: str, kernel: int) -> str:
        """A depthwise convolution with a bias."""
        side, channels = self.side, self.shape(source)[0]
        weights = channels * kernel * kernel
        return self.append(
            name,
            "depthwise_conv",
            [source],
            (channels, side, side),
            kernel=kernel,
            macs=weights * side * side,
            params=weights + channels,
        )

    def depthwise_tokens(self, name: str, source: str, kernel: int) -> str:
        """The same on tokens."""
        return self.tokens(name, self.depthwise(name, self.map(name, source), kernel))

    def layer_norm(self, name: str, source: str) -> str:
        """A layer norm over the channels."""
        return self.norm(name, source, "layer_norm", affine_channels=self.shape(source)[-1])

    def average(self, name: str, source: str, reduction: int) -> str:
        """The means of the cells of a map of tokens, as tokens."""
        last = self.map(name, source)
        side = self.side // reduction
        shape = (self.shape(last)[0], side, side)
        last = self.append(name, "pool", [last], shape, function="average", kernel=reduction, stride=reduction)
        return self.tokens(name, last)

    def attend(self, name: str, factors: Sequence[str], bias: int | None = None, mask: int = 0) -> str:
        """Attention of heads ``(heads, tokens, channels)``.

        Args:
            name: Name of the operators.
            factors: Values, keys, queries.
            bias: Parameters of what is added to the logits; None where nothing is.
            mask: Parameters of what the logits are multiplied with; 0 where nothing is.
        """
        value, key, query = factors
        heads, tokens, head_width = self.shape(query)
        keys = self.shape(key)[1]
        logits, macs = (heads, tokens, keys), heads * tokens * keys * head_width
        key = self.move(f"{name}.key", key, (heads, head_width, keys))
        last = self.append(f"{name}.scores", "matmul", [query, key], logits, macs=macs)
        if mask:
            last = self.append(f"{name}.mask", "multiply", [last], logits, params=mask)
        if bias is not None:
            last = self.append(f"{name}.bias", "add", [last], logits, params=bias)
        last = self.append(f"{name}.softmax", "softmax", [last], logits)
        return self.append(f"{name}.values", "matmul", [last, value], (heads, tokens, head_width), macs=macs)
