"""Equalised layer norms compute what they did."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

from nas.quantisation.equalise import equalise, equalise_shift, find_norms
from nas.quantisation.watching import inputs_of_layers, weighted_layers
from search_spaces import get_space
from supernets import build_network


def small_network(name: str) -> tuple[nn.Module, int]:
    """A network with random weights all over, and its side."""
    torch.manual_seed(0)
    if name == "vit":
        network: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=7
        )
        side = 32
    elif name == "beit":
        network, side = timm.create_model("beit_base_patch16_224", img_size=32, embed_dim=48, depth=2, num_heads=4), 32
    elif name == "swin":
        sizes = {"embed_dim": 24, "depths": (2, 1), "num_heads": (2, 2), "img_size": 64, "window_size": 8}
        network, side = timm.create_model("swin_tiny_patch4_window7_224", num_classes=7, **sizes), 64
    elif name == "convnext":
        network, side = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=7), 64
    else:
        space = get_space(name)
        network, side = build_network(space, space.smallest), space.input_shape(dict(space.smallest.settings))[-1]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return network.eval(), side


def images(side: int, count: int = 4) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def largest_difference(network: nn.Module, other: nn.Module, images_BCHW: Tensor) -> float:
    expected_BK = network(images_BCHW)
    return float((other(images_BCHW) - expected_BK).abs().max() / (expected_BK.max() - expected_BK.min()))


@pytest.mark.parametrize(
    ("name", "scaled", "shifted"),
    [
        ("vit", 5, 5),
        ("beit", 5, 3),  # the sums of query, key and value have no one bias
        ("swin", 8, 4),  # zeros are put around windows and beside merged patches
        ("convnext", 8, 5),
        ("resnas-mini", 15, 13),  # zeros are put around what reductions read
        ("elastic-mini", 0, 0),  # has batch norms alone
    ],
)
@pytest.mark.parametrize("stage", [equalise, equalise_shift])
def test_logits_stay(name: str, scaled: int, shifted: int, stage: Callable[[nn.Module, Tensor], list[str]]) -> None:
    network, side = small_network(name)
    changed = copy.deepcopy(network)
    found = stage(changed, images(side))
    assert len(found) == (scaled if stage is equalise else shifted)
    assert largest_difference(network, changed, images(side)) <= 1e-5


def test_planted_outliers_go() -> None:
    network, side = small_network("vit")
    with torch.no_grad():
        for block in network.blocks:  # type: ignore[union-attr]
            block.norm1.weight[:10] *= 128
            block.norm1.bias[:10] *= 128
            block.attn.qkv.weight[:, :10] /= 128
    before = inputs_of_layers(network, images(side))["blocks.0.attn.qkv"]
    equalise(network, images(side))
    after = inputs_of_layers(network, images(side))["blocks.0.attn.qkv"]
    assert after[1] - after[0] < 0.1 * (before[1] - before[0])


def test_norms_that_something_else_reads_are_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.layer, self.twice = nn.LayerNorm(6), nn.Linear(6, 6), nn.LayerNorm(6)

        def forward(self, x: Tensor) -> Tensor:
            normed = self.norm(x.mean(dim=(2, 3)).repeat(1, 2))
            return self.layer(self.twice(self.layer(normed))) + normed

    network = Shared().eval()
    assert find_norms(network, images(8)) == {}
    assert [(each.name, each.macs) for each in weighted_layers(network, images(8, 1))] == [
        ("layer", 36),
        ("layer#2", 36),
    ]
