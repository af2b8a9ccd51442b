"""Networks that importance alone suggests: small to large, and what is worthless goes first."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search_spaces import population_cost
from supernets.allocation import DIMAP, TAYLOR, VARIANCE, energy_shares, suggested_networks
from tests.support.timm_networks import calibration_of, made, timm_space

MODEL = "vit_tiny_patch16_224?img_size=32&depth=3&embed_dim=48&num_heads=3"
SWIN = "swin_tiny_patch4_window7_224?img_size=56&depths=[1,1,1,1]&embed_dim=24"


@pytest.mark.parametrize("model", [MODEL, pytest.param(SWIN, marks=pytest.mark.slow)])
def test_networks_are_nested_and_whole_but_for_their_units(model: str) -> None:
    supernet = made(model)
    space = timm_space(supernet)
    found = suggested_networks(supernet, calibration_of(supernet))
    assert list(found) == [DIMAP, VARIANCE, TAYLOR]
    assert all(parameter.grad is None for parameter in supernet.parameters())
    kept = [name for name in space.columns if name.rpartition(".")[2] not in ("heads", "hidden", "rank")]
    largest = space.encode([space.largest])
    for networks in found.values():
        ascending = networks[np.argsort(population_cost(space, networks).macs, kind="stable")]
        assert (np.diff(ascending.astype(int), axis=0) >= 0).all()
        columns = [space.columns[name] for name in kept]
        assert (networks[:, columns] == largest[:, columns]).all()
        assert any((row == largest[0]).all() for row in networks)
        assert len(networks) > 5


def test_a_block_without_effect_is_cut_before_others() -> None:
    """Its hidden units are read by nobody: no activation that is lost there is missed, and no loss changes."""
    supernet = made(MODEL)
    with torch.no_grad():
        supernet.network.get_submodule("blocks.1.mlp.fc2").weight.zero_()  # type: ignore[union-attr, operator]
    space = timm_space(supernet)
    found = suggested_networks(supernet, calibration_of(supernet))
    hidden = [space.columns[f"blocks.{number}.hidden"] for number in range(3)]
    for name in (VARIANCE, TAYLOR):
        cut = found[name][(found[name][:, hidden] < space.cardinalities[hidden] - 1).any(axis=1)]
        assert (cut[:, hidden[1]] <= cut[:, hidden[0]]).all()
        assert (cut[:, hidden[1]] < cut[:, hidden[0]]).any()


def test_dimap_scores_of_one_layer() -> None:
    """By hand: energies 4, 2, 1, 1 have shares 1, 1/3, 1/7, 1/8."""
    shares = energy_shares(torch.tensor([1.0, 4.0, 2.0, 1.0]))
    assert shares.tolist() == pytest.approx([1 / 7, 1.0, 1 / 3, 1 / 8])
