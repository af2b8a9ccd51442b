"""Supernets as their authors define them, restated: tensors by their names, and what a network of them computes.

Nothing of ours is used: rules for slicing are written down once more, from the papers and the reference code.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]


def autoformer_tensors(width: int, depth: int, heads: int, grid: int, classes: int, seed: int = 0) -> Tensors:
    """Random tensors of a supernet of AutoFormer or PreNAS on 16-pixel patches."""
    shapes = {
        "pos_embed": (1, grid * grid + 1, width),
        "cls_token": (1, 1, width),
        "patch_embed_super.proj.weight": (width, 3, 16, 16),
        "patch_embed_super.proj.bias": (width,),
    }
    inner, hidden = 64 * heads, 4 * width
    for number in range(depth):
        layers = {"attn.qkv": (3 * inner, width), "attn.proj": (width, inner)}
        layers |= {"fc1": (hidden, width), "fc2": (width, hidden)}
        for name, shape in layers.items():
            shapes |= {f"blocks.{number}.{name}.weight": shape, f"blocks.{number}.{name}.bias": shape[:1]}
        for of, table in product("kv", "vh"):
            shapes[f"blocks.{number}.attn.rel_pos_embed_{of}.embeddings_table_{table}"] = (30, 64)
        for norm in ("attn_layer_norm", "ffn_layer_norm"):
            shapes |= {f"blocks.{number}.{norm}.weight": (width,), f"blocks.{number}.{norm}.bias": (width,)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"head.weight": (classes, width), "head.bias": (classes,)}
    return _drawn(shapes, seed)


def autoformer_logits(t: Mapping[str, Tensor], x: Tensor, network: Mapping[str, int], bias_rule: str) -> Tensor:
    """What a network computes; the rule of its biases is ``autoformer``, ``prenas``, or the ``naive`` one."""
    w, grid = network["width"], x.shape[-1] // 16
    x = F.conv2d(x, t["patch_embed_super.proj.weight"][:w], t["patch_embed_super.proj.bias"][:w], stride=16)
    x = torch.cat([t["cls_token"][..., :w].expand(len(x), 1, w), x.flatten(2).mT], dim=1) + t["pos_embed"][..., :w]
    place = torch.arange(grid * grid)
    steps = [(axis[None] - axis[:, None]).clamp(-14, 14) + 15 for axis in (place // grid, place % grid)]
    rows, columns = (F.pad(step, (1, 0, 1, 0)) for step in steps)
    for number in range(network["depth"]):
        b = {name.split(".", 2)[2]: tensor for name, tensor in t.items() if name.startswith(f"blocks.{number}.")}
        heads, h = network[f"blocks.{number}.heads"], w * network[f"blocks.{number}.ratio"] // 10
        d = 64 * heads
        weight = torch.cat([b["attn.qkv.weight"][part : 3 * d : 3, :w] for part in range(3)])
        bias = {
            "autoformer": b["attn.qkv.bias"][: 3 * d],
            "prenas": torch.cat([b["attn.qkv.bias"][part : 3 * d : 3] for part in range(3)]),
            "naive": b["attn.qkv.bias"].view(3, -1)[:, :d].flatten(),
        }[bias_rule]
        y = F.layer_norm(x, (w,), b["attn_layer_norm.weight"][:w], b["attn_layer_norm.bias"][:w])
        q, k, v = F.linear(y, weight, bias).unflatten(2, (3, heads, 64)).permute(2, 0, 3, 1, 4)
        of_keys, of_values = (
            b[f"attn.rel_pos_embed_{of}.embeddings_table_v"][rows]
            + b[f"attn.rel_pos_embed_{of}.embeddings_table_h"][columns]
            for of in "kv"
        )
        p = ((q @ k.mT + torch.einsum("bhqd,qkd->bhqk", q, of_keys)) / 8).softmax(dim=-1)
        y = (p @ v + torch.einsum("bhqk,qkd->bhqd", p, of_values)).transpose(1, 2).flatten(2)
        x = x + F.linear(y, b["attn.proj.weight"][:w, :d], b["attn.proj.bias"][:w])
        y = F.layer_norm(x, (w,), b["ffn_layer_norm.weight"][:w], b["ffn_layer_norm.bias"][:w])
        y = F.gelu(F.linear(y, b["fc1.weight"][:h, :w], b["fc1.bias"][:h]))
        x = x + F.linear(y, b["fc2.weight"][:w, :h], b["fc2.bias"][:w])
    x = F.layer_norm(x, (w,), t["norm.weight"][:w], t["norm.bias"][:w])[:, 1:].mean(dim=1)
    return F.linear(x, t["head.weight"][:, :w], t["head.bias"])


def _drawn(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Tensors:
    """Random numbers of a size that keeps signals alive: weights around 0, gains around 1."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        scale = (torch.Size(shape[1:]).numel() if len(shape) > 1 else 1) ** -0.5 if len(shape) > 1 else 0.3
        found[name] = scale * torch.randn(shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            found[name] += 1
    return found


ELASTIC_STAGES = ("C1", "C2", "T1", "T2", "T3", "T4")


def elasticvit_tensors(classes: int = 1000, seed: int = 0) -> Tensors:
    """Random tensors of ElasticViT's released supernet."""
    shapes: dict[str, tuple[int, ...]] = {"first_conv.weight": (24, 3, 3, 3)}
    norms = {"first_conv_bn": 24}

    def mobile(name: str, width: int, ratio: int, kernel: int, gate: bool) -> None:
        hidden = width * ratio
        shapes.update(
            {f"{name}.dw_conv.weight": (hidden, 1, kernel, kernel), f"{name}.pwl_conv.weight": (width, hidden, 1, 1)}
        )
        shapes[f"{name}.shortcut_conv.weight"] = (width, width, 1, 1)
        norms.update({f"{name}.dw_bn": hidden, f"{name}.pwl_bn": width})
        if ratio > 1:
            shapes[f"{name}.pw_conv.weight"] = (hidden, width, 1, 1)
            norms[f"{name}.pw_bn"] = hidden
        if gate:
            for number, (rows, columns) in enumerate([(hidden // 4, hidden), (hidden, hidden // 4)], start=1):
                shapes.update(
                    {f"{name}.se_conv{number}.weight": (rows, columns, 1, 1), f"{name}.se_conv{number}.bias": (rows,)}
                )

    for layer in range(2):
        mobile(f"conv_stem.layers.{layer}.0", 24, 1, 5, False)
    for stage, (width, depth) in enumerate([(32, 5), (48, 6)]):
        for layer in range(depth):
            mobile(f"feature_exactor.{stage}.layers.{layer}.0", width, 6, 5, stage == 1)
    for stage, (width, depth, side) in enumerate([(96, 5, 16), (160, 6, 16), (288, 6, 8), (320, 6, 4)], start=2):
        mobile(f"feature_exactor.{stage}.layers.0.reduction", width, 6, 3, True)
        for layer in range(depth):
            attention, ffn = (f"feature_exactor.{stage}.layers.{2 * layer + place}" for place in (0, 1))
            shapes |= {
                f"{attention}.qkv.weight": (6 * width, width),
                f"{attention}.dw_v_conv.weight": (4 * width, 1, 3, 3),
            }
            shapes |= {f"{attention}.proj.weight": (width, 4 * width), f"{attention}.proj.bias": (width,)}
            shapes[f"{attention}.attention_bias"] = ((2 * side - 1) ** 2, width // 16)
            shapes |= {f"{ffn}.fc1.weight": (5 * width, width), f"{ffn}.fc1.bias": (5 * width,)}
            shapes |= {f"{ffn}.fc2.weight": (width, 5 * width), f"{ffn}.fc2.bias": (width,)}
            for norm in (attention, ffn):
                shapes |= {f"{norm}.norm1.weight": (width,), f"{norm}.norm1.bias": (width,)}
    for name, (rows, columns) in {
        "pre_head_0": (1920, 320),
        "pre_head_1": (1984, 1920),
        "classifer": (classes, 1984),
    }.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    norms["pre_head_norm_0"] = 1920
    for name, width in norms.items():
        shapes |= {f"{name}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")}
    found = _drawn(shapes, seed)
    for name in norms:
        found[f"{name}.running_var"] = 1 + found[f"{name}.running_var"].abs()
        found[f"{name}.weight"] = 1 + found[f"{name}.weight"] * 0.1
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)
    return found


def elasticvit_logits(t: Mapping[str, Tensor], x: Tensor, network: Mapping[str, int]) -> Tensor:
    """What a network of the released supernet computes, with the statistics of BatchNorm that stand in the file."""

    def norm(y: Tensor, name: str) -> Tensor:
        c = y.shape[1]
        mean, var, gain, bias = (t[f"{name}.{kind}"][:c] for kind in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(y, mean, var, gain, bias)

    def mobile(x: Tensor, name: str, out: int, ratio: int, kernel: int, stride: int) -> Tensor:
        width = x.shape[1]
        hidden, y = width * ratio, x
        if ratio > 1:
            y = F.hardswish(norm(F.conv2d(y, t[f"{name}.pw_conv.weight"][:hidden, :width]), f"{name}.pw_bn"))
        weight = t[f"{name}.dw_conv.weight"][:hidden]
        if weight.shape[-1] > kernel:
            weight = weight[:, :, 1:4, 1:4]
        y = F.conv2d(y, weight, stride=stride, padding=kernel // 2, groups=hidden)
        y = F.hardswish(norm(y, f"{name}.dw_bn"))
        if f"{name}.se_conv1.weight" in t:
            few = hidden // 4
            gate = F.conv2d(
                y.mean((2, 3), True), t[f"{name}.se_conv1.weight"][:few, :hidden], t[f"{name}.se_conv1.bias"][:few]
            )
            gate = F.conv2d(
                gate.relu(), t[f"{name}.se_conv2.weight"][:hidden, :few], t[f"{name}.se_conv2.bias"][:hidden]
            )
            y = y * F.hardsigmoid(gate)
        y = norm(F.conv2d(y, t[f"{name}.pwl_conv.weight"][:out, :hidden]), f"{name}.pwl_bn")
        if stride > 1:
            x = F.avg_pool2d(x, 2, padding=x.shape[-1] % 2)
        return y + (x if width == out else F.conv2d(x, t[f"{name}.shortcut_conv.weight"][:out, :width]))

    def layer_norm(y: Tensor, name: str) -> Tensor:
        shape = y.shape[1:]
        return F.layer_norm(
            y, shape, *(t[f"{name}.norm1.{kind}"][: shape[-1]].expand(shape) for kind in ("weight", "bias"))
        )

    def attention(x: Tensor, name: str, v: int) -> Tensor:
        batch, tokens, w = x.shape
        side, heads, full = int(tokens**0.5), w // 16, t[f"{name}.qkv.weight"].shape[1]
        sections = [
            t[f"{name}.qkv.weight"][begin : begin + rows, :w] for begin, rows in ((0, w), (full, w), (2 * full, v * w))
        ]
        rows = F.linear(layer_norm(x, name), torch.cat(sections)).view(batch, tokens, heads, -1)
        q, k, value = (part.transpose(1, 2) for part in rows.split([16, 16, 16 * v], dim=3))
        maps = value.transpose(1, 2).reshape(batch, tokens, v * w).mT.reshape(batch, v * w, side, side)
        value = F.conv2d(maps, t[f"{name}.dw_v_conv.weight"][: v * w], padding=1, groups=v * w)
        value = value.flatten(2).mT.reshape(batch, tokens, heads, -1).transpose(1, 2)
        most = (int(len(t[f"{name}.attention_bias"]) ** 0.5) + 1) // 2
        y, z = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        steps = [axis.reshape(-1, 1) - axis.reshape(1, -1) + most - 1 for axis in (y, z)]
        bias = t[f"{name}.attention_bias"][steps[0] * (2 * most - 1) + steps[1]][..., :heads].permute(2, 0, 1)
        mixed = ((q @ k.mT) / 4 + bias).softmax(dim=-1) @ value
        mixed = F.hardswish(mixed.transpose(1, 2).reshape(batch, tokens, v * w))
        return x + F.linear(mixed, t[f"{name}.proj.weight"][:w, : v * w], t[f"{name}.proj.bias"][:w])

    def feed_forward(x: Tensor, name: str, ratio: int) -> Tensor:
        w, h = x.shape[-1], x.shape[-1] * ratio
        y = F.hardswish(F.linear(layer_norm(x, name), t[f"{name}.fc1.weight"][:h, :w], t[f"{name}.fc1.bias"][:h]))
        return x + F.linear(y, t[f"{name}.fc2.weight"][:w, :h], t[f"{name}.fc2.bias"][:w])

    width, side = network["stem.width"], network["input.side"]
    if x.shape[-1] != side:
        x = F.interpolate(x, size=(side, side), mode="bicubic")
    x = F.hardswish(norm(F.conv2d(x, t["first_conv.weight"][:width], stride=2, padding=1), "first_conv_bn"))
    for layer in range(network["stem.depth"]):
        x = mobile(x, f"conv_stem.layers.{layer}.0", width, 1, network["stem.kernel"], 1)
    for number, stage in enumerate(ELASTIC_STAGES):
        name, width, depth = f"feature_exactor.{number}.layers", network[f"{stage}.width"], network[f"{stage}.depth"]
        stride = 1 if stage == "T2" else 2
        if stage.startswith("C"):
            for layer in range(depth):
                sizes = (width, network[f"{stage}.expansion"], network[f"{stage}.kernel"], 1 if layer else stride)
                x = mobile(x, f"{name}.{layer}.0", *sizes)
            continue
        x = mobile(x, f"{name}.0.reduction", width, 6, 3, stride)
        shape, x = x.shape, x.flatten(2).mT
        for layer in range(depth):
            x = attention(x, f"{name}.{2 * layer}", network[f"{stage}.v_scale"])
            x = feed_forward(x, f"{name}.{2 * layer + 1}", network[f"{stage}.mlp_ratio"])
        x = x.mT.reshape(shape)
    x = F.linear(x.flatten(2).mT, t["pre_head_0.weight"][: 6 * width, :width], t["pre_head_0.bias"][: 6 * width])
    x = F.hardswish(norm(x.mT, "pre_head_norm_0")).mean(dim=2)
    x = F.hardswish(F.linear(x, t["pre_head_1.weight"][:, : 6 * width], t["pre_head_1.bias"]))
    return F.linear(x, t["classifer.weight"], t["classifer.bias"])
