"""Tables of named axes over a timm module's own parameters, written layer by layer.

timm's layers are few, and a family differs from another in how they are put together: so the axes of each layer stand
here once, by its class, and an adapter says only which axes flow into and out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.timm_models import TimmModelError
from supernets.axes import RESAMPLE, ROOTED
from supernets.narrowing import make_narrowing

HEAD, HEAD_WIDTH = "head", "head_dim"
"""Axes of the heads of an attention, and of the queries, keys and values of one head."""
PATCH_SIDE = "patch"
"""Axis of the rows and columns of pixels of a patch."""


class NotElastic(TimmModelError):
    """A module whose axes nobody has named yet."""


@dataclass
class AxesTable:
    """The axes of every tensor of one part of a model, and what else depends on their sizes.

    Attributes:
        module: The part.
        axes: Axis description of every parameter and buffer that has one (see `supernets.axes`).
        sizes: Full size of every named axis.
        attributes: Attributes of modules by path, which hold a product of sizes, or a tuple of sizes, as words.
        ties: ``{axis: (others, divisor)}``: axes whose size is that of another one, or of several merged, divided by a
            number.
        in_order: Axes whose entries cannot be put into another order without changing the function.
        narrow_heads: Paths of attentions whose heads can be narrower, by `HEAD_WIDTH`, and do not say so elsewhere.
        notes: What is not elastic, in words.
    """

    module: nn.Module
    axes: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    ties: dict[str, tuple[str, int]] = field(default_factory=dict)
    in_order: set[str] = field(default_factory=set)
    narrow_heads: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def tensor(self, path: str, words: str) -> None:
        """One parameter or buffer; nothing where the model has None in its place."""
        owner, _, leaf = path.rpartition(".")
        module = self.module.get_submodule(owner)
        found = module._parameters.get(leaf, module._buffers.get(leaf))
        if found is not None:
            self.axes[path] = words

    def linear(self, path: str, outputs: str, inputs: str) -> None:
        """A linear layer or convolution; the window of a convolution never changes."""
        layer = self.layer(path)
        if layer is None:
            return
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            raise NotElastic(f"`{path}` is a `{type(layer).__name__}`, expected a linear layer or a convolution")
        window = " . ." if isinstance(layer, nn.Conv2d) else ""
        self.tensor(f"{path}.weight", f"{outputs} {inputs}{window}")
        self.tensor(f"{path}.bias", outputs)

    def patches(self, path: str, outputs: str) -> None:
        """The convolution that makes square patches of an image, whose side can be another."""
        layer = self.layer(path)
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == layer.stride == (layer.kernel_size[0],) * 2:
            self.sizes[PATCH_SIDE] = layer.kernel_size[0]
            self.tensor(f"{path}.weight", f"{outputs} . {PATCH_SIDE}:{RESAMPLE} {PATCH_SIDE}:{RESAMPLE}")

    def depthwise(self, path: str, channels: str) -> None:
        """A depthwise convolution."""
        self.linear(path, channels, ".")

    def norm(self, path: str, axis: str) -> None:
        """A layer norm, RMS norm, group norm of one group, or batch norm."""
        layer = self.layer(path)
        if layer is None:
            return
        if not isinstance(layer, (nn.LayerNorm, nn.RMSNorm, _BatchNorm)) and not hasattr(layer, "normalized_shape"):
            if not (isinstance(layer, nn.GroupNorm) and layer.num_groups == 1):
                raise NotElastic(f"`{path}` is a `{type(layer).__name__}`, expected a norm over channels")
        for name in ("weight", "bias", "running_mean", "running_var"):
            if hasattr(layer, name):
                self.tensor(f"{path}.{name}", axis)
        if isinstance(layer, _BatchNorm):
            self.tensor(f"{path}.num_batches_tracked", "")

    def scale(self, path: str, axis: str) -> None:
        """A `LayerScale`."""
        if self.layer(path) is not None:
            self.tensor(f"{path}.gamma", axis)

    def static(self, path: str) -> None:
        """Every tensor under a module keeps its size."""
        layer = self.layer(path)
        if layer is not None:
            for name, tensor in layer.state_dict(keep_vars=True).items():
                self.axes[f"{path}.{name}"] = " ".join("." * tensor.ndim)

    def attribute(self, path: str, **words: str) -> None:
        """Attributes of the module at ``path`` that hold a product of sizes."""
        self.attributes.setdefault(path, {}).update(words)

    def feature_width(self, axes: str) -> None:
        """What the model and its classifier say about the width of features, which `reset_classifier` needs."""
        names = axes.strip("()")
        full = prod(self.sizes[name] for name in names.split())
        for path, layer in {"": self.module, "head": self.layer("head")}.items():
            for name in ("embed_dim", "num_features", "head_hidden_size", "in_features"):
                if getattr(layer, name, None) == full:
                    self.attribute(path, **{name: names})

    def attention(self, path: str, embed: str, head: str = "head") -> bool:
        """Self-attention of timm; the heads are elastic by themselves or tied to the width.

        Returns:
            Whether they are elastic by themselves.
        """
        layer = self.module.get_submodule(path)
        describe = ATTENTIONS.get(type(layer).__name__)
        if describe is None:
            raise NotElastic(f"`{path}` is a `{type(layer).__name__}`, whose heads have no named axes")
        return describe(self, path, layer, embed, head)

    def class_attention(self, path: str, embed: str) -> None:
        """Attention of a class token to all tokens, as in CaiT: as many heads as make up the width."""
        layer: Any = self.module.get_submodule(path)
        self.sizes |= {"inner": self.sizes[embed], "class_head": layer.num_heads}
        self.ties |= {"inner": (embed, 1), "class_head": (embed, self.sizes[embed] // layer.num_heads)}
        for name in ("q", "k", "v"):
            self.linear(f"{path}.{name}", "inner", embed)
        self.linear(f"{path}.proj", embed, "inner")
        self.attribute(path, num_heads="class_head")

    def class_blocks(self, path: str, scales: Sequence[str], embed: str) -> None:
        """The list of blocks at ``path`` in which a class token asks all tokens; their hidden units are fixed.

        Args:
            scales: Names of the layer scales of a block.
        """
        for number, _ in enumerate(self.module.get_submodule(path).children()):
            block = f"{path}.{number}"
            for name in ("norm1", "norm2"):
                self.norm(f"{block}.{name}", embed)
            for name in scales:
                self.tensor(f"{block}.{name}", embed)
            self.class_attention(f"{block}.attn", embed)
            self.feed_forward(f"{block}.mlp", embed, f"class_hidden{number}")

    def feed_forward(self, path: str, embed: str, hidden: str = "hidden") -> None:
        """A two-layer network of timm, gated or not."""
        layer = self.module.get_submodule(path)
        kind = type(layer).__name__
        if kind not in ("Mlp", "ConvMlp", "GluMlp", "SwiGLU", "GeGluMlp"):
            raise NotElastic(f"`{path}` is a `{kind}`, whose hidden units have no named axes")
        if kind == "GeGluMlp":  # of ViTamin; its norm stands in front of the gate
            self.sizes[hidden] = _in_features(layer.get_submodule("w2"))
            self.norm(f"{path}.norm", embed)
            for name in ("w0", "w1"):
                self.linear(f"{path}.{name}", hidden, embed)
            self.linear(f"{path}.w2", embed, hidden)
            return
        fc2 = layer.get_submodule("fc2")
        self.sizes[hidden] = _in_features(fc2)
        if kind == "SwiGLU":
            self.linear(f"{path}.fc1_g", hidden, embed)
            self.linear(f"{path}.fc1_x", hidden, embed)
        else:
            rows = f"(two {hidden})" if kind == "GluMlp" else hidden
            self.sizes["two"] = 2
            self.linear(f"{path}.fc1", rows, embed)
        self.norm(f"{path}.norm", hidden)
        self.linear(f"{path}.fc2", embed, hidden)

    def check(self) -> None:
        """Make sure that every tensor has axes, and that they make up its shape.

        Raises:
            NotElastic: A tensor has none, or others.
        """
        for name, tensor in self.module.state_dict(keep_vars=True).items():
            if name not in self.axes:
                raise NotElastic(f"`{name}` of `{type(self.module).__name__}` has no named axes")
            try:
                make_narrowing(self.axes[name], tuple(tensor.shape), self.sizes, self.sizes)
            except (ValueError, KeyError) as error:
                raise NotElastic(f"`{name}` of `{type(self.module).__name__}`: {error}") from error

    def active(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """The size of every axis when the searchable ones have ``sizes``."""
        active = {**self.sizes, **sizes}
        for axis, (other, divisor) in self.ties.items():
            active[axis] = prod(active[name] for name in other.strip("()").split()) // divisor
        return active

    def resize(self, module: nn.Module, sizes: Mapping[str, int]) -> nn.Module:
        """Narrow a copy of the part in place; the searchable axes get ``sizes``, the others keep theirs."""
        active = self.active(sizes)
        for path, words in self.axes.items():
            owner, _, leaf = path.rpartition(".")
            holder = module.get_submodule(owner)
            tensor: Tensor = getattr(holder, leaf)
            narrowed = make_narrowing(words, tuple(tensor.shape), self.sizes, active).narrow(tensor.detach())
            if narrowed.shape == tensor.shape:
                continue
            if isinstance(tensor, nn.Parameter):
                holder._parameters[leaf] = nn.Parameter(narrowed.clone(), requires_grad=tensor.requires_grad)
            else:
                holder._buffers[leaf] = narrowed.clone()
        for layer in module.modules():
            _follow_weight(layer)
        for path, words_of in self.attributes.items():
            holder = module.get_submodule(path)
            for name, words in words_of.items():
                setattr(holder, name, _sized(getattr(holder, name), words.split(), active))
        for path in self.narrow_heads:
            if active[HEAD_WIDTH] != self.sizes[HEAD_WIDTH]:
                attention: Any = module.get_submodule(path)
                attention.scale = active[HEAD_WIDTH] ** -0.5  # what fused attention takes by itself
        return module

    def layer(self, path: str) -> nn.Module | None:
        """The layer at ``path``; None where there is none, or an identity in its place."""
        layer: Any = self.module
        for name in path.split("."):
            layer = getattr(layer, name, None)
        return None if layer is None or isinstance(layer, nn.Identity) else layer


def _sized(value: int | tuple[int, ...], words: list[str], active: Mapping[str, int]) -> int | tuple[int, ...]:
    """A number as the product of the named sizes; of a tuple each entry as the named size, kept under a point."""
    if isinstance(value, tuple):
        return tuple(old if axis == "." else active[axis] for old, axis in zip(value, words, strict=True))
    return prod(active[axis] for axis in words)


def _follow_weight(layer: nn.Module) -> None:
    """Set what torch's own layers say about their size to what their weights have."""
    weight = layer._parameters.get("weight")
    if weight is None:
        return
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.Conv2d):
        if layer.groups > 1 and weight.shape[1] * layer.groups == layer.in_channels:  # groups keep their size
            layer.groups = weight.shape[0] // (layer.out_channels // layer.groups)
        layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * layer.groups
    elif isinstance(layer, _BatchNorm):
        layer.num_features = weight.shape[0]
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = weight.shape[0]
    elif hasattr(layer, "normalized_shape"):
        layer.__dict__["normalized_shape"] = tuple(weight.shape)  # no base that has it


def _in_features(layer: nn.Module) -> int:
    weight = layer.get_parameter("weight")
    return int(weight.shape[1])


def _fused_rows(table: AxesTable, path: str, layer: Any, embed: str, head: str) -> None:
    """Projections of `Attention`, `AttentionRope` and `EvaAttention`, fused or not, and what follows them."""
    width = f"{head} {HEAD_WIDTH}"
    of_head = int(getattr(layer, "head_dim", 0)) or layer.qkv.weight.shape[0] // (3 * layer.num_heads)
    table.sizes |= {"three": 3, head: layer.num_heads, "head_dim": of_head}
    table.linear(f"{path}.qkv", f"(three {width})", embed)
    for name in ("q_proj", "k_proj", "v_proj"):
        table.linear(f"{path}.{name}", f"({width})", embed)
    for name in ("q_bias", "k_bias", "v_bias"):
        if hasattr(layer, name):
            table.tensor(f"{path}.{name}", f"({width})")
    for name in ("q_norm", "k_norm"):
        table.static(f"{path}.{name}")
    table.norm(f"{path}.norm", f"({width})")
    table.linear(f"{path}.gate", f"({width})", embed)
    table.linear(f"{path}.proj", embed, f"({width})")
    table.attribute(path, num_heads=head)


def _attention(table: AxesTable, path: str, layer: Any, embed: str, head: str) -> bool:
    if not hasattr(layer, "attn_dim"):  # as in BEiT, and in older releases of timm
        return _as_wide_as_the_input(table, path, layer, embed, head)
    _fused_rows(table, path, layer, embed, head)
    table.attribute(path, attn_dim=f"{head} head_dim", head_dim=HEAD_WIDTH)
    normed = [name for name in ("q_norm", "k_norm", "norm") if table.layer(f"{path}.{name}") is not None]
    if normed:
        table.notes.append("width of heads: norms stand between their projections")
    elif getattr(layer, "gate", None) is not None:
        table.notes.append("width of heads: gates belong to their channels")
    else:
        _narrow_heads(table, path, head)
    return True


def _narrow_heads(table: AxesTable, path: str, head: str) -> None:
    """Let heads be narrower: queries are scaled by what the attention divides by less."""
    for name in ("weight", "bias"):
        if f"{path}.qkv.{name}" in table.axes:
            words = table.axes[f"{path}.qkv.{name}"]
            table.axes[f"{path}.qkv.{name}"] = words.replace(f"{head} {HEAD_WIDTH}", f"{head} {HEAD_WIDTH}:{ROOTED}")
    table.narrow_heads.append(path)


def _attention_rope(table: AxesTable, path: str, layer: Any, embed: str, head: str) -> bool:
    _fused_rows(table, path, layer, embed, head)
    groups = getattr(layer, "num_kv_groups", 1)
    if hasattr(layer, "attn_dim"):
        table.notes.append("width of heads: rotary positions turn their channels")
    if not hasattr(layer, "attn_dim"):
        return _tied(table, embed, head, table.sizes["head_dim"])
    if groups > 1:
        table.sizes |= {head: layer.num_kv_heads, "group": groups}
        for name, rows in {"q_proj": f"({head} group head_dim)", "gate": f"({head} group head_dim)"}.items():
            table.linear(f"{path}.{name}", rows, embed)
        table.norm(f"{path}.norm", f"({head} group head_dim)")
        table.linear(f"{path}.proj", embed, f"({head} group head_dim)")
        table.attribute(path, num_heads=f"{head} group", num_kv_heads=head)
        table.attribute(path, attn_dim=f"{head} group head_dim", kv_dim=f"{head} head_dim")
    else:
        table.attribute(path, attn_dim=f"{head} head_dim")
        if hasattr(layer, "num_kv_heads"):
            table.attribute(path, num_kv_heads=head, kv_dim=f"{head} head_dim")
    return True


def _as_wide_as_the_input(table: AxesTable, path: str, layer: Any, embed: str, head: str) -> bool:
    """Attention that puts its heads together as wide as its input, so that their number follows the width."""
    _fused_rows(table, path, layer, embed, head)
    table.tensor(f"{path}.relative_position_bias_table", f". {head}")
    bias = getattr(layer, "rel_pos", None)
    if bias is not None:
        _relative_positions(table, f"{path}.rel_pos", bias, head)
    for name in ("proj_l", "proj_w"):  # talking heads
        table.linear(f"{path}.{name}", head, head)
    table.tensor(f"{path}.temperature", f"{head} . .")
    return _tied(table, embed, head, table.sizes["head_dim"])


def _windowed(table: AxesTable, path: str, layer: Any, embed: str, head: str) -> bool:
    _fused_rows(table, path, layer, embed, head)
    table.tensor(f"{path}.relative_position_bias_table", f". {head}")
    table.tensor(f"{path}.logit_scale", f"{head} . .")
    if not hasattr(layer, "cpb_mlp"):
        _narrow_heads(table, path, head)
        return True
    table.static(f"{path}.cpb_mlp.0")  # relative positions from a network: an output per head
    table.linear(f"{path}.cpb_mlp.2", head, ".")
    return _tied(table, embed, head, table.sizes["head_dim"])  # it gives its heads back as wide as its input


def _relative_positions(table: AxesTable, path: str, bias: Any, head: str) -> None:
    kind = type(bias).__name__
    if kind == "RelPosBias":
        table.tensor(f"{path}.relative_position_bias_table", f". {head}")
        table.attribute(path, bias_shape=f". . {head}")
    elif kind == "RelPosMlp":
        table.static(f"{path}.mlp.fc1")
        table.static(f"{path}.mlp.norm")
        table.linear(f"{path}.mlp.fc2", head, ".")
        table.attribute(path, num_heads=head, bias_shape=f". . {head}")
    else:
        raise NotElastic(f"`{path}` is a `{kind}`, whose relative positions have no named axes")


def _differential(table: AxesTable, path: str, layer: Any, embed: str, head: str) -> bool:
    width = f"{head} two head_dim"
    table.sizes |= {"three": 3, "two": 2, head: layer.num_heads, "head_dim": layer.head_dim}
    table.linear(f"{path}.qkv", f"(three {width})", embed)
    for name in ("q_norm", "k_norm", "sub_norm"):
        table.static(f"{path}.{name}")
    for name in ("lambda_a", "lambda_b"):
        table.tensor(f"{path}.{name}", "")
    for name in ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"):
        table.tensor(f"{path}.{name}", ".")
    table.norm(f"{path}.norm", f"({width})")
    table.linear(f"{path}.proj", embed, f"({width})")
    table.attribute(path, num_heads=head)
    return _tied(table, embed, head, 2 * layer.head_dim)


def _tied(table: AxesTable, embed: str, head: str, width_of_head: int) -> bool:
    table.ties[head] = (embed, width_of_head)
    table.notes.append("width of heads: the layer puts them together as wide as its input")
    return False


ATTENTIONS: dict[str, Callable[[AxesTable, str, Any, str, str], bool]] = {
    "Attention": _attention,
    "AttentionRope": _attention_rope,
    "EvaAttention": _as_wide_as_the_input,
    "RelPosAttention": _as_wide_as_the_input,
    "TalkingHeadAttn": _as_wide_as_the_input,
    "XCA": _as_wide_as_the_input,
    "WindowAttention": _windowed,
    "DiffAttention": _differential,
}
