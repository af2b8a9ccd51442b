"""Transformers of one width from the first block to the last: a stem, equal blocks, a head.

Most families of timm are of this kind. An adapter for one of them describes its blocks; stem and head are described
here by what their modules are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from search_spaces.timm_models import DEPTH, MERGED, MERGING
from supernets.timm_models.merging import Merging, may_be_merged, merged_values, places_of
from supernets.timm_models.parts import (
    Elastic,
    Part,
    count_values,
    depth_values,
    hidden_values,
    narrow_heads,
    shell,
    width_values,
)
from supernets.timm_models.tables import AxesTable, NotElastic

EMBED = "embed"
STEM = (
    "patch_embed",
    "cls_token",
    "reg_token",
    "dist_token",
    "pos_embed",
    "pos_drop",
    "patch_drop",
    "norm_pre",
    "rope",
)
HEAD = ("norm", "fc_norm", "attn_pool", "head_drop", "head", "head_dist", "head_norm")
HEADS_FOLLOW = "number of heads: it follows the width, since the layer has no other"


def run_stem(model: Any, x_BCHW: Tensor) -> Tensor:
    """Images to tokens ``(B, N, C)``, in front of the first block."""
    tokens_BNC: Tensor = model.forward_features(x_BCHW)
    return tokens_BNC


def run_head(model: Any, x_BNC: Tensor) -> Tensor:
    """Tokens behind the last block to logits ``(B, classes)``."""
    logits_BK: Tensor = model.forward_head(model.norm(x_BNC))
    return logits_BK


def plain_chain(
    model: Any,
    blocks: Sequence[AxesTable],
    *,
    stem: AxesTable | None = None,
    head: AxesTable | None = None,
    notes: Sequence[str] = (),
    merges: bool = False,
) -> list[Part]:
    """The parts of a model of one width.

    Args:
        model: With ``patch_embed``, ``blocks``, ``norm``, ``forward_features`` and ``forward_head``.
        blocks: The tables of its blocks, with axes ``embed``, ``head`` and ``hidden`` where they have them.
        stem: Table of the stem; None for the usual one.
        head: Table of the head; None for the usual one.
        notes: What is not elastic, in words.
        merges: Whether tokens can be merged in front of some blocks, whose attention takes a mask.
    """
    stem = stem or describe_stem(model)
    head = head or describe_head(model)
    width = int(model.embed_dim)
    of_head = max(table.sizes.get("head_width", table.sizes.get("head_dim", 1)) for table in blocks)
    ties = [(of, by) for table in (*blocks, head) for of, by in table.ties.values()]
    step = max([by for of, by in ties if of == EMBED], default=0)
    widths = Elastic(EMBED, width_values(width, step or of_head, finest=step or 8))
    parts = [Part("stem", stem, {EMBED: widths}, ". . .")]
    places = places_of(len(blocks)) if merges else ()
    patches, done = int(model.patch_embed.num_patches) if places else 0, 0
    merged = merged_values(patches, len(places))
    for index, table in enumerate(blocks):
        name = f"blocks.{index}"
        elastic = {EMBED: widths}
        if index in places:
            merging = AxesTable(Merging(done, int(model.num_prefix_tokens)), sizes={EMBED: width})
            both = {EMBED: widths, MERGED: may_be_merged(merging, done, merged)}
            parts.append(Part(f"{MERGING}{done}", merging, both, ". embed", merges=done))
            done += 1
        if done:
            elastic[MERGED] = may_be_merged(table, done, merged)
        if "head" in table.sizes and "head" not in table.ties:
            elastic["head"] = Elastic(f"{name}.heads", count_values(table.sizes["head"]))
        if "hidden" in table.sizes:
            elastic["hidden"] = Elastic(f"{name}.hidden", hidden_values(table.sizes["hidden"]))
        elastic |= narrow_heads(name, table)
        parts.append(Part(name, table, elastic, ". embed", removable=DEPTH, own_path=name, merges=done))
    tied = (HEADS_FOLLOW,) if step and blocks[0].ties else ()
    notes = (*notes, *tied, *dict.fromkeys(note for table in blocks for note in table.notes))
    last = {EMBED: widths}
    if done:
        last[MERGED] = may_be_merged(head, done, merged, is_head=True)
    parts.append(Part("head", head, last, ". embed", notes=notes, merges=done))
    for part in parts:
        part.table.check()
    return parts


def plain_depths(chain: Sequence[Part]) -> dict[str, tuple[int, ...]]:
    """Candidate values of every depth choice of a chain."""
    counts: dict[str, int] = {}
    for part in chain:
        if part.removable:
            counts[part.removable] = counts.get(part.removable, 0) + 1
    return {choice: depth_values(count) for choice, count in counts.items()}


def describe_stem(model: Any) -> AxesTable:
    """Patch embedding, class and register tokens, positions, a norm in front of the blocks."""
    table = AxesTable(shell(model, STEM, run_stem, blocks=nn.Sequential()), sizes={EMBED: int(model.embed_dim)})
    embedding = model.patch_embed
    backbone = getattr(embedding, "backbone", None)
    if backbone is not None:
        table.static("patch_embed.backbone")
        if table.layer("patch_embed.proj") is None:  # ViTamin: the backbone's last convolution makes the tokens
            table.linear("patch_embed.backbone.pool.proj", EMBED, ".")
            table.attribute("patch_embed", feature_dim=EMBED)
    table.linear("patch_embed.proj", EMBED, ".")
    if type(embedding).__name__ == "PatchEmbed":
        table.patches("patch_embed.proj", EMBED)
    table.norm("patch_embed.norm", EMBED)
    for name in ("cls_token", "reg_token", "dist_token"):
        if hasattr(model, name):
            table.tensor(name, ". . embed")
    if hasattr(model, "norm_pre"):
        table.norm("norm_pre", EMBED)
    positions = getattr(model, "pos_embed", None)
    if isinstance(positions, nn.Parameter):
        if positions.ndim != 3:
            raise NotElastic(f"`pos_embed` has {positions.ndim} dimensions, expected 3")
        table.tensor("pos_embed", ". position:resize embed")
        grid_height, grid_width = embedding.grid_size
        table.sizes["position"] = positions.shape[1]
        table.sizes["position.prefix"] = positions.shape[1] - grid_height * grid_width
    if getattr(model, "rope", None) is not None:
        table.static("rope")
    return table


def describe_head(model: Any) -> AxesTable:
    """Norms, pooling, classifier."""
    module = shell(model, HEAD, run_head, blocks=nn.Sequential())
    table = AxesTable(module, sizes={EMBED: int(model.embed_dim)})
    for name in ("norm", "fc_norm", "head_norm"):
        if hasattr(model, name):
            table.norm(name, EMBED)
    pool = getattr(model, "attn_pool", None)
    if pool is not None and not isinstance(pool, nn.Identity):
        _attention_pool(table, pool)
    for name in ("head", "head_dist"):
        if isinstance(getattr(model, name, None), nn.Linear):
            table.linear(name, ".", EMBED)
    table.feature_width(EMBED)
    return table


def describe_class_head(module: nn.Module, width: int, blocks: str, scales: Sequence[str]) -> AxesTable:
    """A head whose class token runs through blocks of its own.

    Args:
        module: The head.
        width: Channels of the tokens.
        blocks: Name of the class token's blocks.
        scales: Names of the scales of their branches.
    """
    table = AxesTable(module, sizes={EMBED: width})
    table.tensor("cls_token", ". . embed")
    table.class_blocks(blocks, scales, EMBED)
    table.norm("norm", EMBED)
    table.linear("head", ".", EMBED)
    table.feature_width(EMBED)
    return table


def describe_scaled_block(block: nn.Module) -> AxesTable:
    """A pre-norm block whose two branches are scaled by ``gamma_1`` and ``gamma_2``."""
    table = AxesTable(block, sizes={EMBED: int(block.get_submodule("norm1").get_parameter("weight").shape[0])})
    for number in (1, 2):
        table.norm(f"norm{number}", EMBED)
        table.tensor(f"gamma_{number}", EMBED)
    table.attention("attn", EMBED)
    table.feed_forward("mlp", EMBED)
    return table


def _attention_pool(table: AxesTable, pool: Any) -> None:
    kind = type(pool).__name__
    if kind not in ("AttentionPoolLatent", "AttentionPoolPrr"):
        raise NotElastic(f"`attn_pool` is a `{kind}`, whose heads have no named axes")
    table.sizes |= {"two": 2, "pool_head": pool.num_heads, "inner": table.sizes[EMBED]}
    table.ties |= {"pool_head": (EMBED, pool.head_dim), "inner": (EMBED, 1)}
    table.attribute("attn_pool", num_heads="pool_head")
    for name in ("pre_norm", "post_norm", "norm"):
        if hasattr(pool, name):
            table.norm(f"attn_pool.{name}", EMBED)
    if kind == "AttentionPoolPrr":
        table.in_order.add(EMBED)  # its heads are stretches of the width itself
        return
    if pool.pos_embed is not None:
        raise NotElastic("`attn_pool.pos_embed`: positions of the pooling have no named axes")
    table.tensor("attn_pool.latent", ". . embed")
    table.linear("attn_pool.q", "inner", EMBED)
    table.linear("attn_pool.kv", "(two inner)", EMBED)
    for name in ("q_norm", "k_norm"):
        table.static(f"attn_pool.{name}")
    table.linear("attn_pool.proj", EMBED, "inner")
    if pool.mlp is not None:
        table.feed_forward("attn_pool.mlp", EMBED, "pool_hidden")
