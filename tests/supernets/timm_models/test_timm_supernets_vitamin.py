"""What is promised of the networks inside ViTamin: convolutions in front, gated units behind a norm of their own."""

from __future__ import annotations

import pytest
import torch

from search_spaces import get_space
from search_spaces.timm_models import TimmReference, TimmSpace
from supernets import Supernet
from supernets.timm_models.chain import chain_of
from tests.support.timm_networks import (
    check_borrowed_gradients,
    check_counts,
    check_extracted_is_active,
    check_largest_is_the_model,
    check_sorting,
    made,
)

WITH_POSITIONS = "vitamin_small_224?img_size=32&depth=2"
WITHOUT = "vitamin_xlarge_256?img_size=32&depth=1"
FAMILY = {
    "vitamin_small_224": (21_877_696, 5_887_451_136),
    "vitamin_base_224": (87_132_032, 22_622_552_064),
    "vitamin_large_224": (332_531_616, 74_923_204_608),
    "vitamin_xlarge_256": (434_726_976, 129_940_586_496),
}
"""Parameters and MACs without a classifier. Published, with the projection of CLIP: 333.3 M and 72.6 G for L, 436.1 M
and 125.3 G for XL, products of attention left out (arXiv 2404.02132)."""


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return made(WITH_POSITIONS)


def test_networks_are_those_of_the_model_and_of_timm(supernet: Supernet) -> None:
    check_largest_is_the_model(supernet)
    assert check_extracted_is_active(supernet) >= 1


def test_gradients_reach_the_stem(supernet: Supernet) -> None:
    check_borrowed_gradients(supernet)


@pytest.mark.parametrize("name", FAMILY)
def test_parameters_are_those_of_the_family(name: str) -> None:
    parts = chain_of(TimmReference(name).model, None, 10).parts
    params = sum(p.numel() for part in parts.values() for p in part.table.module.parameters())
    classifier = parts["head"].table.module.get_submodule("head")
    assert params - sum(p.numel() for p in classifier.parameters()) == FAMILY[name][0]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILY)
def test_costs_are_those_of_the_family(name: str) -> None:
    space = get_space(f"timm:{name}", 1000)
    assert isinstance(space, TimmSpace)
    graph, width = space.lower(space.largest), dict(space.largest.settings)["embed"]
    assert (graph.params - 1000 * (width + 1), graph.macs - 1000 * width) == FAMILY[name]


@pytest.mark.slow
@pytest.mark.parametrize("model", [WITH_POSITIONS, WITHOUT])
def test_all_is_kept_at_both_ends(model: str) -> None:
    check_largest_is_the_model(made(model))
    check_counts(made(model))
    check_sorting(model)


def test_without_positions_other_sides_are_still_searched() -> None:
    space = get_space(f"timm:{WITHOUT}", 10)
    assert isinstance(space, TimmSpace)
    assert space.columns["input.side"] == 0
    assert {"blocks.0.hidden", "blocks.0.heads", "blocks.0.rank", "embed"} <= set(space.columns)
    with torch.device("meta"):
        assert chain_of(space.outline.reference.model, 32, 10).parts["stem"].table.module.pos_embed is None
