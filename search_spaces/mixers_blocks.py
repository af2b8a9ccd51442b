"""Sizes and operators of the blocks of the `mixers` family: pyramids whose token mixers are chosen.

Between blocks flow tokens ``(side * side, channels)``, row by row. A block of one kind is a block of a network; with
several kinds it holds the tensors of all of them, which networks share, and has no operators. Operators are those of
the deployed network.
"""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.graph import SOURCE, Op, OpList
from search_spaces.mixers_operators import TokenOps

MIXERS = ("none", "pool", "conv", "window", "shift", "sra", "pooled", "hilo", "linear", "full", "gmm", "hyena")
"""Kinds of token mixers by code."""
STEMS = ("patch", "overlap", "conv")
ENTRIES = ("merge", "patch", "batch", "overlap", "residual")
FEED_FORWARDS = ("plain", "dw", "repa75", "repa50")
WINDOWED = ("window", "shift")
WITHOUT_HEADS = ("none", "pool", "conv", "hyena")
COMPONENTS = 5
"""Components of the mixture of Gaussians that masks logits."""


def low_heads(heads: int) -> int:
    """Of the heads of HiLo, those that look at the reduced map: nine tenths; a single head leaves none for it."""
    return min(max(9 * heads // 10, 1), heads - 1)


@dataclass(frozen=True)
class Stem:
    """Patches of an image as tokens, behind a layer norm.

    Attributes:
        side: Side of the image in pixels.
        stride: Distance of patches; with two convolutions 4.
    """

    side: int
    width: int
    stride: int
    kinds: tuple[str, ...]

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        (kind,) = self.kinds
        ops = OpList((3, self.side, self.side))
        if kind == "conv":
            last = ops.conv("conv1", SOURCE, self.width // 2, kernel=3, stride=2, bias=True)
            last = ops.norm("batch_norm1", last, "batch_norm", affine_channels=self.width // 2)
            last = ops.activation("activation", last, "relu")
            last = ops.conv("conv2", last, self.width, kernel=3, stride=2, bias=True)
            last = ops.norm("batch_norm2", last, "batch_norm", affine_channels=self.width)
        else:
            kernel = self.stride if kind == "patch" else 2 * self.stride - 1
            last = ops.conv(kind, SOURCE, self.width, kernel=kernel, stride=self.stride, bias=True)
        tokens = ((self.side // self.stride) ** 2, self.width)
        last = ops.append("tokens", "reshape", [last], tokens, function="transpose")
        ops.norm("norm", last, "layer_norm", affine_channels=self.width)
        return ops.ops


@dataclass(frozen=True)
class Entry:
    """The reduction in front of a stage: half the side, other channels.

    Attributes:
        side: Side of the map that comes in.
    """

    side: int
    in_width: int
    width: int
    kinds: tuple[str, ...]

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        (kind,) = self.kinds
        ops = TokenOps(self.side, self.in_width)
        tokens = (self.side**2 // 4, self.width)
        if kind == "merge":
            cells = ops.move("cells", SOURCE, (tokens[0], 4 * self.in_width))
            ops.linear("merge", ops.layer_norm("merge_norm", cells), self.width, bias=False)
            return ops.ops
        last = SOURCE if kind == "batch" else ops.layer_norm("norm", SOURCE)
        kernel = 2 if kind in ("patch", "batch") else 3
        last = ops.conv(f"conv{kernel}", ops.map("main", last), self.width, kernel=kernel, stride=2, bias=True)
        if kind == "batch":
            last = ops.norm("batch_norm", last, "batch_norm", affine_channels=self.width)
        last = ops.tokens("main", last)
        if kind == "batch":
            ops.activation("activation", last, "gelu")
        elif kind == "overlap":
            ops.layer_norm("out_norm", last)
        elif kind == "residual":
            kept = ops.average("shortcut", SOURCE, 2)
            if self.width > self.in_width:
                kept = ops.move("shortcut.pad", kept, tokens, "pad")
            ops.add("residual", last, kept)
        return ops.ops


@dataclass(frozen=True)
class Mixer:
    """What mixes tokens, behind a layer norm, with a shortcut and where asked a convolution for the positions.

    Attributes:
        side: Side of the map of tokens.
        head_width: Channels of an attention head; the width where a kind has no heads.
        parts: A kind of `MIXERS` but ``none``, which is no block; ``hyena_back`` where its convolution sums over cells
            up and left. Then ``cpe`` where depthwise convolutions say where a token is, in place of a table of offsets
            in windows. Several kinds hold what networks share.
        reduction: Factor by which the map's side is reduced where keys are; windows have the reduced side.
        kernel: Side of the large depthwise windows.
        least: Smallest denominator of linear attention.
        split: Channels of HiLo's high heads and of its low ones, else 0.
    """

    side: int
    width: int
    head_width: int
    parts: tuple[str, ...]
    reduction: int
    kernel: int
    least: int
    split: tuple[int, int] = (0, 0)

    @property
    def positions(self) -> bool:
        """Whether depthwise convolutions say where a token is."""
        return "cpe" in self.parts

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.width // self.head_width

    @property
    def window(self) -> int:
        """Side of a window, and of the reduced map."""
        return self.side // self.reduction

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        kind = self.parts[0]
        ops = TokenOps(self.side, self.width)
        last = SOURCE
        if self.positions:
            last = ops.add("cpe.residual", last, ops.depthwise_tokens("cpe", last, 3))
        mixed = getattr(self, f"_{kind}")(ops, ops.layer_norm("norm1", last))
        last = ops.add("residual", last, mixed)
        if self.positions and kind in WINDOWED:
            last = ops.add("cpe2.residual", last, ops.depthwise_tokens("cpe2", last, 3))
        if kind == "linear":
            ops.add("local.residual", last, self._concentrated(ops, ops.layer_norm("norm3", last)))
        return ops.ops

    def _pool(self, ops: TokenOps, last: str) -> str:
        source = ops.map("pool", last)
        pooled = ops.append("pool", "pool", [source], ops.shape(source), function="average", kernel=3)
        mixed = ops.add("difference", ops.tokens("pool", pooled), last)
        return ops.append("scale", "multiply", [mixed], ops.shape(mixed), params=self.width)

    def _conv(self, ops: TokenOps, last: str) -> str:
        last = ops.depthwise_tokens("depthwise", ops.linear("vkq", last, self.width), self.kernel)
        return ops.linear("project", last, self.width)

    def _full(self, ops: TokenOps, last: str) -> str:
        vkq = ops.linear("vkq", last, 3 * self.width)
        return self._project(ops, ops.attend("attention", self._heads(ops, "vkq", vkq, 3)))

    def _window(self, ops: TokenOps, last: str, is_shifted: bool = False) -> str:
        if is_shifted:
            last = ops.roll("roll", last, self.window // 2)
        vkq = ops.linear("vkq", last, 3 * self.width)
        parts = [ops.move(f"{part}.split", vkq, (self.side**2, self.width), "split") for part in "vkq"]
        v, k, q = (self._in_windows(ops, f"{part}.windows", each) for part, each in zip("vkq", parts, strict=True))
        table = 0 if self.positions else (2 * self.window - 1) ** 2 * self.heads
        last = ops.attend("attention", (v, k, q), table if table or is_shifted else None)
        last = ops.move("merge", last, (self.side**2, self.width))
        last = ops.linear("project", last, self.width)
        return ops.roll("roll_back", last, self.window // 2) if is_shifted else last

    def _shift(self, ops: TokenOps, last: str) -> str:
        return self._window(ops, last, is_shifted=True)

    def _sra(self, ops: TokenOps, last: str) -> str:
        reduced = ops.conv(
            "reduce", ops.map("reduce", last), self.width, kernel=self.reduction, stride=self.reduction, bias=True
        )
        return self._reduced(ops, last, ops.layer_norm("reduce_norm", ops.tokens("reduce", reduced)))

    def _pooled(self, ops: TokenOps, last: str) -> str:
        reduced = ops.linear("pool_reduce", ops.average("average", last, self.reduction), self.width)
        return self._reduced(ops, last, ops.activation("activation", ops.layer_norm("reduce_norm", reduced), "gelu"))

    def _reduced(self, ops: TokenOps, last: str, reduced: str) -> str:
        v, k = self._heads(ops, "vk", ops.linear("vk", reduced, 2 * self.width), 2)
        (q,) = self._heads(ops, "q", ops.linear("q", last, self.width), 1)
        return self._project(ops, ops.attend("attention", (v, k, q)))

    def _hilo(self, ops: TokenOps, last: str) -> str:
        tokens = self.side**2
        query = ops.linear("q", last, self.width)
        high_width, low_width = self.split
        near = ops.linear("high.vk", last, 2 * high_width)
        parts = [ops.move(f"high.{part}", near, (tokens, high_width), "split") for part in "vk"]
        parts.append(ops.move("high.q", query, (tokens, high_width), "split"))
        v, k, q = (self._in_windows(ops, f"{part}.windows", part, self.reduction) for part in parts)
        high = ops.move("high.merge", ops.attend("high.attention", (v, k, q)), (tokens, high_width))
        high = ops.linear("project_high", high, high_width)
        reduced = ops.linear("low.vk", ops.average("average", last, self.reduction), 2 * low_width)
        v, k = self._heads(ops, "low.vk", reduced, 2)
        (q,) = self._heads(ops, "low.q", ops.move("low.q", query, (tokens, low_width), "split"), 1)
        low = ops.move("low.merge", ops.attend("low.attention", (v, k, q)), (tokens, low_width))
        return ops.append(
            "concatenate", "concatenate", [high, ops.linear("project_low", low, low_width)], (tokens, self.width)
        )

    def _linear(self, ops: TokenOps, last: str) -> str:
        tokens, heads, d = self.side**2, self.heads, self.head_width
        macs = tokens * self.width * d
        vkq = ops.linear("vkq", last, 3 * self.width)
        (v,) = self._heads(ops, "v", ops.move("v.split", vkq, (tokens, self.width), "split"), 1)
        kq = ops.activation("relu", ops.move("kq.split", vkq, (tokens, 2 * self.width), "split"), "relu")
        k, q = self._heads(ops, "kq", kq, 2)
        columns = ops.move("k.columns", k, (heads, d, tokens))
        state = ops.append("state", "matmul", [columns, v], (heads, d, d), macs=macs)
        state = ops.append("temperature", "multiply", [state], (heads, d, d), params=heads)
        mixed = ops.append("mix", "matmul", [q, state], (heads, tokens, d), macs=macs)
        mean = ops.append("mean", "pool", [k], (heads, d), function="average")
        total = ops.append("total", "matmul", [q, mean], (heads, tokens, 1), macs=tokens * self.width)
        total = ops.activation("clamp", total, "clamp")
        return self._project(ops, ops.append("quotient", "multiply", [mixed, total], (heads, tokens, d)))

    def _gmm(self, ops: TokenOps, last: str) -> str:
        vkq = ops.linear("vkq", last, 3 * self.width)
        mask = 2 * COMPONENTS * self.heads
        return self._project(ops, ops.attend("attention", self._heads(ops, "vkq", vkq, 3), mask=mask))

    def _hyena(self, ops: TokenOps, last: str) -> str:
        width, side = self.width, self.side
        shape = (width, side, side)
        mapped = ops.depthwise("short", ops.map("vkq", ops.linear("vkq", last, 3 * width)), 3)
        v, gate, out = (ops.move(f"{part}.split", mapped, shape, "split") for part in ("v", "gate", "out"))
        v = ops.append("gated", "multiply", [v, gate], shape)
        padded = ops.move("pad", v, (width, 2 * side - 1, 2 * side - 1), "pad")
        macs = width * side**4
        long = ops.append("long", "depthwise_conv", [padded], shape, kernel=side, macs=macs, params=width * side * side)
        direct = ops.append("direct", "multiply", [v], shape, params=width)
        mixed = ops.append("out", "multiply", [out, ops.add("sum", long, direct)], shape)
        return ops.linear("project", ops.tokens("out", mixed), width)

    def _hyena_back(self, ops: TokenOps, last: str) -> str:
        return self._hyena(ops, last)

    def _concentrated(self, ops: TokenOps, last: str) -> str:
        last = ops.depthwise("local1", ops.map("local", last), self.kernel)
        last = ops.activation("local.activation", last, "gelu")
        last = ops.norm("local_norm", last, "batch_norm", affine_channels=self.width)
        return ops.tokens("local", ops.depthwise("local2", last, self.kernel))

    def _heads(self, ops: TokenOps, name: str, source: str, parts: int) -> tuple[str, ...]:
        """The parts of a projection, each ``(heads, tokens, head_width)``."""
        tokens, width = ops.shape(source)
        own = width // parts
        rows = (own // self.head_width, tokens, self.head_width)
        # Runtimes split first, whatever the order in the module.
        split = [ops.move(f"{name}.part{part}", source, (tokens, own), "split") for part in range(parts)]
        return tuple(ops.move(f"{name}.heads{part}", each, rows) for part, each in enumerate(split))

    def _in_windows(self, ops: TokenOps, name: str, source: str, window: int | None = None) -> str:
        window = window or self.window
        heads = ops.shape(source)[1] // self.head_width * (self.side // window) ** 2
        return ops.move(name, source, (heads, window * window, self.head_width))

    def _project(self, ops: TokenOps, mixed: str) -> str:
        return ops.linear("project", ops.move("merge", mixed, (self.side**2, self.width)), self.width)


@dataclass(frozen=True)
class FeedForward:
    """Two linear layers on every token, with a shortcut; with a depthwise convolution between them, or as in RePaViT.

    Attributes:
        side: Side of the map of tokens.
        active: Hidden channels that have an activation: all of them, but in RePaViT.
        kinds: ``plain``, ``dw`` or ``repa``.
        folded: Whether a RePaViT network is in the form in which it is deployed, whose operators it has in any case.
    """

    side: int
    width: int
    hidden: int
    active: int
    kinds: tuple[str, ...]
    folded: bool = False

    def ops(self) -> tuple[Op, ...]:
        """The block's operators, as it is deployed."""
        (kind,) = self.kinds
        ops = TokenOps(self.side, self.width)
        if kind == "repa":
            skip = ops.linear("skip", SOURCE, self.width)
            last = ops.activation("activation", ops.linear("expand", SOURCE, self.active), "gelu")
            ops.add("sum", skip, ops.linear("project", last, self.width, bias=False))
            return ops.ops
        last = ops.linear("expand", ops.layer_norm("norm2", SOURCE), self.hidden)
        if kind == "dw":
            last = ops.depthwise_tokens("depthwise", last, 3)
        last = ops.activation("activation", last, "gelu")
        ops.add("residual", SOURCE, ops.linear("project", last, self.width))
        return ops.ops


@dataclass(frozen=True)
class Head:
    """Layer norm, mean over tokens, linear classifier.

    Attributes:
        side: Side of the map of tokens.
    """

    side: int
    width: int
    classes: int

    def ops(self) -> tuple[Op, ...]:
        """The block's operators."""
        ops = TokenOps(self.side, self.width)
        last = ops.append("mean", "pool", [ops.layer_norm("norm", SOURCE)], (self.width,), function="average")
        ops.linear("classifier", last, self.classes)
        return ops.ops


MixersBlock = Stem | Entry | Mixer | FeedForward | Head
