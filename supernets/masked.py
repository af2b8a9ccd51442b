"""Subnets of the ViT-ResNAS family by masks over the largest network: every image has the channels of its architecture.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642. Active
channels are always the first ones, and everything behind them is zero wherever another layer reads it, so an image's
output is that of its subnet alone. Deviation: the variance of the masked layer norm is taken around the mean, where the
reference subtracts the squared mean from the mean square, which is the same number with fewer digits.

Legend of tensor suffixes: B batch, C channels, H and W rows and columns, N tokens (T class tokens, then P patches),
E channels of all heads, F hidden channels, 1 broadcast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import BlockSpec
from search_spaces.resnas_blocks import ConvStem, Head, PatchEmbed, Reduction, TransformerLayer
from supernets.errors import SupernetError
from supernets.networks import resnas
from supernets.sampling.policy import Assignment
from supernets.shares import Output, check_shares
from supernets.supernet import Supernet
from supernets.token_logits import TokenLogits


@dataclass(frozen=True)
class Active:
    """The first channels of a layer, as many as each image has.

    Attributes:
        count_B11: How many.
        mask_B1C: 1 for those, 0 for the rest.
    """

    count_B11: Tensor
    mask_B1C: Tensor


@dataclass(frozen=True)
class Tokens:
    """What flows between blocks: tokens that are zero beyond the active channels of their stage."""

    x_BNC: Tensor
    embed: Active


def masked_forward(supernet: Supernet, assignments: Sequence[Assignment], images_BCHW: Tensor) -> Output:
    """Run the architectures of a step in one pass of the largest network; gradients reach the shared tensors.

    Args:
        supernet: The shared tensors of a space of the ViT-ResNAS family, in training or evaluation mode.
        assignments: One of every share, in the order of their indices.
        images_BCHW: The whole batch.

    Returns:
        The outputs of all images, in the order of the batch.

    Raises:
        SupernetError: The space is of another family, or shares do not divide the batch among the assignments.
    """
    check_shares(assignments, len(images_BCHW))
    space = supernet.space
    blocks = list(space.blocks(space.largest))
    if not all(type(spec) in _RUNS for _, spec in blocks):
        raise SupernetError(
            f"space `{space.name}` has no masked execution, expected one of the ViT-ResNAS family",
            hint="use the execution `sliced`",
        )
    networks = [dict(space.blocks(assignment.architecture)) for assignment in assignments]
    x = supernet.family.prepare(images_BCHW, space.input_shape(dict(space.largest.settings))[-1])
    for name, spec in blocks:
        specs = [network.get(name) for network in networks]
        if any(specs):  # else no gradient either, as in sliced execution: the optimiser leaves such a block alone
            x = _RUNS[type(spec)](supernet.network.get_submodule(name), x, specs)
    return x  # type: ignore[no-any-return]


def masked_layer_norm(x_BNC: Tensor, norm: nn.LayerNorm, active: Active) -> Tensor:
    """Layer norm over each image's active channels, in single precision at least; zero on the others.

    Args:
        x_BNC: Tokens that are zero on inactive channels.
        norm: Weights and biases of all channels.
        active: The active channels.
    """
    with torch.autocast(x_BNC.device.type, enabled=False):
        x_BNC = x_BNC.to(torch.promote_types(x_BNC.dtype, torch.float32))
        mean_BN1 = x_BNC.sum(dim=-1, keepdim=True) / active.count_B11
        centred_BNC = (x_BNC - mean_BN1) * active.mask_B1C
        variance_BN1 = centred_BNC.square().sum(dim=-1, keepdim=True) / active.count_B11
        scaled_BNC = centred_BNC * (variance_BN1 + norm.eps).rsqrt() * norm.weight
        return scaled_BNC + norm.bias * active.mask_B1C


def first_channels(counts: Sequence[int], size: int, x: Tensor) -> Active:
    """Active channels of a batch whose images ``g::G`` have the first ``counts[g]`` of ``size`` channels.

    Args:
        counts: For each of the ``G`` groups.
        size: Number of channels of the layer.
        x: A batch of the same images, for their number, device and precision.
    """
    count_B11 = _of_images(counts, x)
    return Active(count_B11, (torch.arange(size, device=x.device) < count_B11).to(x.dtype))


def branch_scale(specs: Sequence[TransformerLayer | None], x: Tensor, training: bool) -> Tensor:
    """What each image's residual branch is multiplied by, ``(B, 1, 1)``; drawn anew in training.

    Args:
        specs: The layer in each group's network; None where it is missing, which multiplies by 0.
        x: A batch of the images.
        training: Whether layers are skipped by stochastic depth: 0 for some images, more than 1 for the others.
    """
    kept_B11 = _of_images([1 - spec.drop_path if spec else 0.0 for spec in specs], x)
    if not training:
        return kept_B11.sign()
    return torch.bernoulli(kept_B11) / kept_B11.clamp(min=torch.finfo(kept_B11.dtype).tiny)


def _stem(module: resnas.ConvStem, x_BCHW: Tensor, specs: Sequence[ConvStem]) -> Tensor:
    y_BCHW: Tensor = module(x_BCHW)  # of one size in all networks
    return y_BCHW


def _patches(module: resnas.PatchEmbed, x_BCHW: Tensor, specs: Sequence[PatchEmbed]) -> Tokens:
    x_BNC: Tensor = module(x_BCHW)
    embed = first_channels([spec.width for spec in specs], x_BNC.shape[-1], x_BNC)
    return Tokens(x_BNC * embed.mask_B1C, embed)


def _layer(module: resnas.TransformerLayer, tokens: Tokens, specs: Sequence[TransformerLayer | None]) -> Tokens:
    x_BNC, embed = tokens.x_BNC, tokens.embed
    channels = [spec.heads * spec.head_width if spec else 0 for spec in specs]
    heads = first_channels(channels, module.attention.project.in_features, x_BNC)
    units = [spec.hidden if spec else 0 for spec in specs]
    hidden = first_channels(units, module.feed_forward.project.in_features, x_BNC)

    def masked(branch_BNC: Tensor) -> Tensor:
        return branch_BNC * (embed.mask_B1C * branch_scale(specs, x_BNC, module.training))

    y_BNC = masked_layer_norm(x_BNC, module.attention_norm, embed)
    x_BNC = x_BNC + masked(_attention(module.attention, y_BNC, heads))
    y_BNC = masked_layer_norm(x_BNC, module.feed_forward_norm, embed)
    return Tokens(x_BNC + masked(_feed_forward(module.feed_forward, y_BNC, hidden)), embed)


def _attention(module: resnas.Attention, x_BNC: Tensor, heads: Active) -> Tensor:
    batch, tokens, _ = x_BNC.shape
    parts = module.qkv(x_BNC).reshape(batch, tokens, 3, module.heads, module.head_width).permute(2, 0, 3, 1, 4)
    mixed_BGND = F.scaled_dot_product_attention(*parts.unbind(0))
    mixed_BNE = mixed_BGND.transpose(1, 2).reshape(batch, tokens, -1)
    y_BNC: Tensor = module.project(mixed_BNE * heads.mask_B1C)
    return y_BNC


def _feed_forward(module: resnas.FeedForward, x_BNC: Tensor, hidden: Active) -> Tensor:
    hidden_BNF = F.gelu(module.expand(x_BNC))
    y_BNC: Tensor = module.project(hidden_BNF * hidden.mask_B1C)
    return y_BNC


def _reduction(module: resnas.Reduction, tokens: Tokens, specs: Sequence[Reduction]) -> Tokens:
    side, classes = module.side, module.class_tokens
    y_BNC = masked_layer_norm(tokens.x_BNC, module.norm, tokens.embed)
    x_BCHW, y_BCHW = (
        t_BNC[:, classes:].transpose(1, 2).reshape(len(t_BNC), -1, side, side) for t_BNC in (tokens.x_BNC, y_BNC)
    )
    kept_BCHW = F.pad(F.avg_pool2d(x_BCHW, 2), (0, 0, 0, 0, 0, module.more_channels))
    patches_BPC = (module.conv(y_BCHW) + kept_BCHW).flatten(2).transpose(1, 2) + module.position_embedding
    class_BTC = module.project(y_BNC[:, :classes]) + F.pad(tokens.x_BNC[:, :classes], (0, module.more_channels))
    x_BNC = torch.cat([class_BTC, patches_BPC], dim=1)
    embed = first_channels([spec.width for spec in specs], x_BNC.shape[-1], x_BNC)
    return Tokens(x_BNC * embed.mask_B1C, embed)


def _head(module: resnas.Head, tokens: Tokens, specs: Sequence[Head]) -> Output:
    patch_classifier = module.patch_classifier if module.training else None
    x_BNC = tokens.x_BNC if patch_classifier is not None else tokens.x_BNC[:, : module.class_tokens]
    y_BNC = masked_layer_norm(x_BNC, module.norm, tokens.embed)
    logits_BK: Tensor = module.classifier(y_BNC[:, 0])
    if module.distillation_classifier is not None:
        logits_BK = (logits_BK + module.distillation_classifier(y_BNC[:, 1])) / 2
    if patch_classifier is None:
        return logits_BK
    return TokenLogits(logits_BK, patch_classifier(y_BNC[:, module.class_tokens :]))


def _of_images(values: Sequence[float], x: Tensor) -> Tensor:
    """The value of each image's group, ``(B, 1, 1)``."""
    groups_B = torch.arange(len(x), device=x.device) % len(values)
    return torch.tensor(values, dtype=x.dtype, device=x.device)[groups_B][:, None, None]


_RUNS: Mapping[type[BlockSpec], Callable[..., Any]] = {
    ConvStem: _stem,
    PatchEmbed: _patches,
    TransformerLayer: _layer,
    Reduction: _reduction,
    Head: _head,
}
"""How a block of the largest network runs: its module, what flows into it, and its spec in each group's network."""
