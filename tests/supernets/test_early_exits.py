"""Exits: their published sizes, where they can stand, and what they learn from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from latency_tables.counting import counted_macs
from supernets.data.sources import load_data
from supernets.early_exits import ExitChain, GlobalHead, LocalHead, PatchMap, exit_logits, train_exits
from supernets.errors import TrainingError
from supernets.supernet import Supernet
from tests.support.timm_networks import made

TINY = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=3&embed_dim=24&num_heads=3"


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return made(TINY)


def test_heads_are_as_large_as_published() -> None:
    """LGViT's for ViT-B/16: 233, 119 and 60 M MACs beside 1,454 M of a block."""
    map_1CHW = torch.zeros(1, 768, 14, 14)
    local, every_other, every_third = LocalHead(768).eval(), GlobalHead(768, 2).eval(), GlobalHead(768, 3).eval()
    params = [sum(p.numel() for p in head.parameters()) for head in (local, every_other, every_third)]
    assert params == [1_193_472, 2_360_064, 2_360_064]
    macs = [counted_macs(head.requires_grad_(False), map_1CHW) for head in (local, every_other, every_third)]
    patches, other, third = 196, 49, 25
    assert macs == [
        patches * (2 * 768**2 + 9 * 768),
        4 * other * 768**2 + 2 * other**2 * 768,
        4 * third * 768**2 + 2 * third**2 * 768,
    ]


@pytest.mark.parametrize(
    ("shape", "side", "expected"),
    [
        ((197, 8), 224, PatchMap(8, 14, 1, "tokens")),
        ((9, 8), 32, PatchMap(8, 2, 5, "tokens")),
        ((16, 8), 32, PatchMap(8, 4, 0, "tokens")),
        ((8, 7, 7), 224, PatchMap(8, 7, 0, "first")),
        ((7, 7, 8), 224, PatchMap(8, 7, 0, "last")),
        ((8, 1, 1), 224, None),
        ((8,), 224, None),
        ((3, 8), 32, None),
    ],
)
def test_maps_of_patches_are_found(shape: tuple[int, ...], side: int, expected: PatchMap | None) -> None:
    assert PatchMap.of(shape, side) == expected


def test_patches_keep_their_places() -> None:
    x = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    map_BCHW = PatchMap(3, 2, 1, "tokens").patches(x)
    assert torch.equal(map_BCHW[:, :, 1, 0], x[:, 3])
    last = torch.arange(2 * 4 * 3).reshape(2, 2, 2, 3)
    assert torch.equal(PatchMap(3, 2, 0, "last").patches(last)[:, :, 1, 0], last[:, 1, 0])


class Watched:
    """Images whose test part must not be seen."""

    classes = 10

    def __init__(self) -> None:
        self._images = load_data("digits", 32)

    def steps_per_epoch(self, batch_size: int) -> int:
        return 2

    def train_batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[Any]:
        batches = self._images.train_batches(batch_size, seed, epoch)
        return (next(batches) for _ in range(2))

    def batches(self, part: str, batch_size: int) -> Iterator[Any]:
        assert part == "search"
        return iter([next(self._images.batches("search", batch_size))])


def test_exits_learn_beside_a_network_that_stays_as_it_is(supernet: Supernet) -> None:
    chain, images = ExitChain(supernet, supernet.space.largest), Watched()
    before = {name: tensor.clone() for name, tensor in chain.network.state_dict().items()}
    steps: list[tuple[int, int]] = []
    exits = train_exits(chain, images, 2, 0, lambda *told: steps.append(told))  # type: ignore[arg-type]
    assert set(exits) == {(number, kind) for number in (1, 2, 3) for kind in ("local", "global-2", "global-3")}
    assert steps[-1] == (4, 4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in chain.network.state_dict().items())
    again = train_exits(chain, images, 2, 0, lambda *_: None)  # type: ignore[arg-type]
    for place, found in exits.items():
        for name, tensor in found.state_dict().items():
            assert torch.equal(tensor, again[place].state_dict()[name])
    logits, last_NK, labels_N = exit_logits(chain, exits, images)  # type: ignore[arg-type]
    x_BCHW, expected_N = next(images.batches("search", 64))
    assert torch.equal(labels_N, expected_N)
    with torch.no_grad():
        assert torch.allclose(last_NK, supernet(x_BCHW, supernet.space.largest), atol=1e-5)
    assert {found.shape for found in logits.values()} == {last_NK.shape}


def test_networks_without_a_map_have_no_exits(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatchMap, "of", classmethod(lambda cls, shape, side: None))
    with pytest.raises(TrainingError, match="have no map of patches behind their blocks"):
        ExitChain(supernet, supernet.space.largest)


def test_places_are_spread_evenly_where_there_are_many(supernet: Supernet) -> None:
    assert list(ExitChain(supernet, supernet.space.largest, most=2).maps) == [1, 3]
