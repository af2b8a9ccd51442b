"""Vision transformers that others have trained one by one: their accuracies, op graphs and untrained twins.

The file is JSON: ``{"sets": {name: {"source": ..., "archs": [{"id", "arch", "acc" or "rank"}]}}}``. ``acc`` holds
accuracies by task, ``rank`` positions by task with 0 for the best. Three families are known by settings of ``arch``:

- ``hidden_dim``: plain ViT whose head width is width / heads, mean of patch tokens (AutoFormer, Chen et al., ICCV 2021,
  arXiv 2107.00651), as in ViT-Bench-101 (Wei et al., Auto-Prox, AAAI 2024, arXiv 2312.09059);
- ``base_dim``: PiT (Heo et al., ICCV 2021, arXiv 2103.16302), also in ViT-Bench-101;
- ``head_dim``: ViT with fixed head width, so that attention may be narrower than the network.

Legend of tensor suffixes: n architectures.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from latency_tables.trace import trace
from nas.scores.subject import ScoreSubject
from search_spaces.graph import SOURCE, Op, OpGraph, OpList

Floats = npt.NDArray[np.float64]
Settings = Mapping[str, Any]

IMAGE_SIDE = 224
CLASSES = 100
PATCH, PIT_STRIDE = 16, 8


@dataclass(frozen=True)
class TrainedSet:
    """Trained networks of one family.

    Attributes:
        name: Of the set.
        source: Who trained them.
        ids: One per network.
        settings: The architecture of each.
        tasks: By name, one number per network ``[n]``; higher is better.
    """

    name: str
    source: str
    ids: tuple[str, ...]
    settings: tuple[Settings, ...]
    tasks: Mapping[str, Floats]

    def part(self, rows: slice) -> TrainedSet:
        """Some of the networks."""
        tasks = {task: labels_n[rows] for task, labels_n in self.tasks.items()}
        return TrainedSet(self.name, self.source, self.ids[rows], self.settings[rows], tasks)

    @functools.cached_property
    def sizes_n2(self) -> Floats:
        """Parameters and MACs of each network, ``[n, 2]``."""
        graphs = [lower(settings) for settings in self.settings]
        return np.array([(graph.params, graph.macs) for graph in graphs], dtype=np.float64)


def load_trained_sets(path: Path) -> list[TrainedSet]:
    """The sets of a file; ranks are negated so that higher is better."""
    document = json.loads(path.read_text(encoding="utf-8"))
    sets = [_read_set(name, entry) for name, entry in document["sets"].items()]
    for trained in sets:
        check_lowering(trained.settings[0])
    return sets


def check_lowering(settings: Settings) -> None:
    """Compare what is lowered by hand with what the module holds.

    Raises:
        ValueError: They differ.
    """
    with torch.device("meta"):
        module = build(settings)
    graph, macs = lower(settings), trace(module, (3, IMAGE_SIDE, IMAGE_SIDE), "network").macs
    params = sum(parameter.numel() for parameter in module.parameters())
    if (graph.params, graph.macs) != (params, macs):
        raise ValueError(
            f"op graph of {settings}: found {graph.params} parameters and {graph.macs} MACs, expected the module's"
            f" {params} and {macs}"
        )


def _read_set(name: str, entry: Mapping[str, Any]) -> TrainedSet:
    archs = entry["archs"]
    tasks = {}
    for field, sign in (("acc", 1.0), ("rank", -1.0)):
        for task in archs[0].get(field, {}):
            tasks[task] = sign * np.array([arch[field][task] for arch in archs], dtype=np.float64)
    settings = tuple(arch["arch"] for arch in archs)
    return TrainedSet(name, entry["source"], tuple(arch["id"] for arch in archs), settings, tasks)


def subject(name: str, settings: Settings, image_side: int = IMAGE_SIDE) -> ScoreSubject:
    """An untrained network for images of any side; its op graph stays that for 224 pixels, as it was trained."""
    graph = functools.cache(lambda: lower(settings))
    return ScoreSubject(name, lambda: build(settings, image_side), (3, image_side, image_side), graph)


# -- modules ---------------------------------------------------------------------------------------------------------


def build(settings: Settings, image_side: int = IMAGE_SIDE) -> nn.Module:
    """The freshly initialised timm module of an architecture."""
    return _build_pit(settings, image_side) if "base_dim" in settings else _build_vit(settings, image_side)


def _build_pit(settings: Settings, image_side: int) -> nn.Module:
    from timm.models.pit import PoolingVisionTransformer

    return PoolingVisionTransformer(
        img_size=image_side,
        patch_size=PATCH,
        stride=PIT_STRIDE,
        base_dims=[settings["base_dim"]] * 3,
        depth=settings["depth"],
        heads=settings["num_heads"],
        mlp_ratio=settings["mlp_ratio"],
        num_classes=CLASSES,
    )


def _build_vit(settings: Settings, image_side: int) -> nn.Module:
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block, VisionTransformer

    places = zip(settings["num_heads"], settings["mlp_ratio"], strict=True)

    def block(dim: int, num_heads: int, mlp_ratio: float, **options: Any) -> nn.Module:
        heads, ratio = next(places)
        if "head_dim" not in settings:
            return Block(dim, heads, ratio, **options)
        made = Block(dim, num_heads, ratio, **options)
        made.attn = Attention(dim, heads, attn_head_dim=settings["head_dim"], qkv_bias=True)
        return made

    return VisionTransformer(
        img_size=image_side,
        patch_size=PATCH,
        embed_dim=_width(settings),
        depth=settings["depth"],
        num_heads=1,
        num_classes=CLASSES,
        global_pool="token" if "head_dim" in settings else "avg",
        fc_norm=False,
        block_fn=block,  # type: ignore[arg-type]
    )


# -- op graphs -------------------------------------------------------------------------------------------------------


def lower(settings: Settings, image_side: int = IMAGE_SIDE) -> OpGraph:
    """The op graph of an architecture, without tracing."""
    return _lower_pit(settings, image_side) if "base_dim" in settings else _lower_vit(settings, image_side)


def _lower_vit(settings: Settings, image_side: int) -> OpGraph:
    width, side = _width(settings), image_side // PATCH
    stem = _embedding(image_side, width, side, PATCH)
    stem.append("tokens", "concatenate", [stem.ops[-1].name], (side * side + 1, width), params=width)
    stem.append("position", "add", ["tokens"], (side * side + 1, width), params=width * (side * side + 1))
    blocks = [("stem", stem.ops)]
    for number, (heads, ratio) in enumerate(zip(settings["num_heads"], settings["mlp_ratio"], strict=True)):
        inner = heads * settings.get("head_dim", width // heads)
        blocks.append((f"block.{number}", _transformer(side * side + 1, width, heads, inner, ratio)))
    blocks.append(("head", _head((side * side + 1, width))))
    return OpGraph(blocks, (3, image_side, image_side))


def _lower_pit(settings: Settings, image_side: int) -> OpGraph:
    widths = [settings["base_dim"] * heads for heads in settings["num_heads"]]
    side = (image_side - PATCH) // PIT_STRIDE + 1
    stem = _embedding(image_side, widths[0], side, PIT_STRIDE)
    stem.append("position", "add", [stem.ops[-1].name], (widths[0], side, side), params=widths[0] * side * side)
    stem.append("tokens", "concatenate", ["position"], (side * side + 1, widths[0]), params=widths[0])
    blocks = [("stem", stem.ops)]
    for stage, (width, heads, depth) in enumerate(zip(widths, settings["num_heads"], settings["depth"], strict=True)):
        if stage:
            blocks.append((f"pool.{stage}", _pool(side, widths[stage - 1], width)))
            side = -(-side // 2)
        made = _transformer(side * side + 1, width, heads, width, settings["mlp_ratio"])
        blocks += [(f"stage.{stage}.{number}", made) for number in range(depth)]
    blocks.append(("head", _head((1, widths[-1]))))
    return OpGraph(blocks, (3, image_side, image_side))


def _embedding(image_side: int, width: int, side: int, stride: int) -> OpList:
    ops = OpList((3, image_side, image_side))
    weights = 3 * PATCH * PATCH * width
    size: dict[str, int] = {"macs": weights * side * side, "params": weights + width}
    ops.append("patches", "conv", [SOURCE], (width, side, side), kernel=PATCH, stride=stride, **size)
    return ops


def _transformer(tokens: int, width: int, heads: int, inner: int, ratio: float) -> tuple[Op, ...]:
    ops = OpList((tokens, width))
    logits, macs = (heads, tokens, tokens), tokens * tokens * inner
    last = ops.linear("attention.qkv", ops.norm("norm1", SOURCE, "layer_norm", affine_channels=width), 3 * inner)
    query, key, value = (ops.append(f"attention.{part}", "reshape", [last], (tokens, inner)) for part in "qkv")
    last = ops.append("attention.scores", "matmul", [query, key], logits, macs=macs)
    last = ops.append("attention.softmax", "softmax", [last], logits)
    last = ops.append("attention.values", "matmul", [last, value], (tokens, inner), macs=macs)
    middle = ops.add("add1", SOURCE, ops.linear("attention.proj", last, width))
    last = ops.linear("mlp.fc1", ops.norm("norm2", middle, "layer_norm", affine_channels=width), int(width * ratio))
    ops.add("add2", middle, ops.linear("mlp.fc2", ops.activation("mlp.act", last, "gelu"), width))
    return ops.ops


def _pool(side: int, before: int, width: int) -> tuple[Op, ...]:
    """Between two stages of PiT: a strided depthwise convolution of the map, a linear layer for the class token."""
    ops, after = OpList((side * side + 1, before)), -(-side // 2)
    ops.append("map", "reshape", [SOURCE], (before, side, side))
    ops.append("class", "reshape", [SOURCE], (1, before))
    size: dict[str, int] = {"macs": 9 * width * after * after, "params": 10 * width}
    ops.append("conv", "depthwise_conv", ["map"], (width, after, after), kernel=3, stride=2, **size)
    ops.append("tokens", "concatenate", [ops.linear("fc", "class", width), "conv"], (after * after + 1, width))
    return ops.ops


def _head(shape: tuple[int, int]) -> tuple[Op, ...]:
    ops = OpList(shape)
    ops.norm("norm", SOURCE, "layer_norm", affine_channels=shape[-1])
    ops.linear("linear", ops.append("pool", "pool", ["norm"], (1, shape[-1]), function="global"), CLASSES)
    return ops.ops


def _width(settings: Settings) -> int:
    names = [name for name in ("hidden_dim", "embed_dim") if name in settings]
    if not names:
        raise ValueError(f"unknown family: settings {sorted(settings)}, expected hidden_dim, base_dim or head_dim")
    return int(settings[names[0]])
