"""Rotated heads: the whole network computes what it did, and narrower heads lose as little as they can."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import nn

from search_spaces import Architecture
from supernets import Supernet
from supernets.least_squares import DegenerateError
from supernets.timm_models.export import timm_state_dict
from supernets.timm_models.rotation import rotate_heads
from tests.support.timm_networks import images, made, timm_space

PLAIN = "vit_tiny_patch16_224?img_size=32&depth=2&embed_dim=64&num_heads=2"
MODELS = {
    "plain": PLAIN,
    "distillation token": "deit_tiny_distilled_patch16_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "layer scale": "vit_small_patch14_reg4_dinov2?img_size=28&depth=2&embed_dim=48&num_heads=3",
    "no bias": "vit_tiny_patch16_224?img_size=32&depth=2&embed_dim=48&num_heads=3&qkv_bias=false",
    "windows": "swin_tiny_patch4_window7_224?img_size=56&depths=[1,1,2,1]&embed_dim=24",
}
LEFT_WHOLE = {
    "vit_tiny_patch16_224?img_size=32&depth=1&embed_dim=48&num_heads=3&qk_norm=true": "norms stand between",
    "eva02_tiny_patch14_224?img_size=28&depth=1": "as wide as its input",
    "beit_base_patch16_224?img_size=32&depth=1&embed_dim=48&num_heads=3": "as wide as its input",
    "swinv2_tiny_window8_256?img_size=64&window_size=4&depths=[1,1,1,1]&embed_dim=24": "as wide as its input",
}


def _of_rank(supernet: Supernet, which: int) -> Architecture:
    values = {
        choice.name: choice.values[which if choice.name.endswith(".rank") else -1] for choice in supernet.space.choices
    }
    return timm_space(supernet).from_values(values)


@pytest.mark.parametrize("model", MODELS.values(), ids=list(MODELS))
@torch.no_grad()
def test_the_whole_network_computes_what_it_did_and_narrow_heads_come_closer(model: str) -> None:
    supernet = made(model)
    x_BCHW = images(supernet, 32)
    wanted_BK = supernet.network(x_BCHW)
    ranks = [choice for choice in supernet.space.choices if choice.name.endswith(".rank")]
    narrow = range(len(ranks[0].values) - 1)
    before = [supernet(x_BCHW, _of_rank(supernet, which)) for which in narrow]
    assert rotate_heads(supernet, x_BCHW) == len(ranks)
    after = [supernet(x_BCHW, _of_rank(supernet, which)) for which in narrow]
    assert float((supernet.network(x_BCHW) - wanted_BK).abs().max()) < 1e-4 * float(wanted_BK.max() - wanted_BK.min())
    for sliced_BK, rotated_BK in zip(before, after, strict=True):
        assert (rotated_BK - wanted_BK).square().mean() < (sliced_BK - wanted_BK).square().mean()


@torch.no_grad()
def test_heads_of_lower_rank_lose_nothing() -> None:
    """Queries, keys and values that vary in half of a head's directions need no more channels than that."""
    supernet = made(PLAIN)
    for number in range(2):
        qkv = supernet.network.get_submodule(f"blocks.{number}.attn.qkv")
        assert isinstance(qkv, nn.Linear)
        rows = qkv.weight.view(3, 2, 32, 64)
        mixing = torch.randn(3, 2, 16, 16, generator=torch.Generator().manual_seed(number)) / 4
        rows[:, :, 16:] = mixing @ rows[:, :, :16]
        qkv.bias.view(3, 2, 32)[:, :, 16:] = (mixing @ qkv.bias.view(3, 2, 32)[:, :, :16, None])[..., 0]
    x_BCHW = images(supernet, 32)
    wanted_BK, half = supernet.network(x_BCHW), _of_rank(supernet, 1)
    rotate_heads(supernet, x_BCHW)
    assert dict(half.settings)["blocks.0.rank"] == 16
    span = float(wanted_BK.max() - wanted_BK.min())
    assert float((supernet(x_BCHW, half) - wanted_BK).abs().max()) < 1e-3 * span


@pytest.mark.parametrize("model", [MODELS["layer scale"], MODELS["windows"]])
@torch.no_grad()
def test_exported_networks_agree_at_every_width_fused_and_not(model: str) -> None:
    from supernets.networks.timm_subnet import build_subnet
    from supernets.timm_models.export import subnet_config

    supernet, space = made(model), timm_space(made(model))
    x_BCHW = images(supernet)
    choice = next(choice for choice in space.choices if choice.name.endswith(".rank"))
    for which in range(len(choice.values)):
        architecture = _of_rank(supernet, which)
        weights = timm_state_dict(space, architecture, supernet.extract(architecture))
        rebuilt = build_subnet(subnet_config(space, architecture), weights)
        wanted_BK = supernet(x_BCHW, architecture)
        for is_fused in (True, False):
            for module in rebuilt.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = is_fused  # type: ignore[assignment]
            assert torch.allclose(rebuilt(x_BCHW), wanted_BK, atol=1e-5), (which, is_fused)


def test_queries_are_scaled_by_what_attention_divides_by_less() -> None:
    supernet = made(PLAIN)
    quarter = supernet.extract(_of_rank(supernet, 0)).get_submodule("blocks.0.attn.qkv").get_parameter("weight")
    shared = supernet.network.get_submodule("blocks.0.attn.qkv").get_parameter("weight").view(3, 2, 32, 64)
    scaled = shared[:, :, :8] * torch.tensor([sqrt(8 / 32), 1.0, 1.0])[:, None, None, None]
    assert torch.allclose(quarter.view(3, 2, 8, 64), scaled)


@pytest.mark.parametrize(("model", "reason"), LEFT_WHOLE.items())
def test_what_cannot_be_narrowed_is_left_whole_and_said(model: str, reason: str) -> None:
    space = timm_space(made(model))
    assert not [choice for choice in space.choices if choice.name.endswith(".rank")]
    assert any(note.startswith("width of heads: ") and reason in note for note in space.outline.fixed)


def test_numbers_that_are_not_finite_are_refused() -> None:
    supernet = made(PLAIN)
    with torch.no_grad():
        supernet.network.get_submodule("blocks.1.norm1").get_parameter("weight")[0] = torch.nan
    with pytest.raises(DegenerateError, match=r"block `blocks\.1`: .* not finite"):
        rotate_heads(supernet, images(supernet, 32))
