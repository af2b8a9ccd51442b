"""Sorting by importance: the whole network computes what it did, and the first entries are the important ones."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from search_spaces import get_space
from search_spaces.timm_models import DEPTH, TimmModelError, TimmSpace
from supernets import Supernet
from supernets.importance import CRITERIA, SORTED, block_importance, sort_by_importance, sorted_along
from tests.support.timm_networks import calibration_of, check_sorting, made

MODELS = (
    "vit_tiny_patch16_224?img_size=32&depth=3&embed_dim=48&num_heads=3",
    "vit_base_patch16_siglip_224?img_size=32&depth=2&embed_dim=48&num_heads=3",
    "eva02_tiny_patch14_224?img_size=28&depth=2",
    "cait_xxs24_224?img_size=32&depth=2&embed_dim=48",
    "swin_tiny_patch4_window7_224?img_size=56&depths=[1,1,1,1]&embed_dim=24",
)


@pytest.mark.parametrize("model", MODELS)
def test_sorting_leaves_the_function_unchanged(model: str) -> None:
    check_sorting(model)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_dead_unit_comes_last_and_a_live_one_first(criterion: str) -> None:
    """Units that nobody reads are the least important, one that drowns the others the most, whatever the criterion."""
    supernet = made(MODELS[0])
    mlp = supernet.network.get_submodule("blocks.1.mlp")
    with torch.no_grad():
        mlp.fc1.weight[100:].zero_()  # type: ignore[union-attr, operator, index]
        mlp.fc1.bias[100:].zero_()  # type: ignore[union-attr, operator, index]
        mlp.fc2.weight[:, 100:].zero_()  # type: ignore[union-attr, operator, index]
        mlp.fc1.weight[77] *= 30  # type: ignore[union-attr, operator, index]
        mlp.fc2.weight[:, 77] *= 30  # type: ignore[union-attr, operator, index]
        first_before = mlp.fc2.weight[:, 77].clone()  # type: ignore[union-attr, operator, index]
    again = sorted_along(supernet, "hidden", criterion, calibration_of(supernet))
    weight = again.network.get_submodule("blocks.1.mlp").fc2.weight  # type: ignore[union-attr]
    assert torch.equal(weight[:, 0], first_before)  # type: ignore[index]
    assert (weight[:, 100:] == 0).all()  # type: ignore[index]


@torch.no_grad()
def test_blocks_are_ordered_by_the_loss_without_them() -> None:
    supernet = made(MODELS[0])
    calibration = calibration_of(supernet)
    losses = block_importance(supernet, "taylor", calibration)
    again = sorted_along(supernet, DEPTH, "taylor", calibration)
    space = again.space
    assert isinstance(space, TimmSpace)
    assert space.outline.reference.order == tuple(sorted(range(3), key=lambda number: -losses[number]))
    values = {choice.name: choice.values[-1] for choice in space.choices} | {DEPTH: 2}
    kept = space.kept_blocks(space.from_values(values))
    least = losses.index(min(losses))
    assert f"blocks.{least}" not in kept
    logits = again(calibration.images_BCHW, space.from_values(values))
    expected = F.cross_entropy(logits, calibration.targets_BK).item()
    assert abs(expected - losses[least]) < 1e-5


def test_the_best_criterion_of_each_axis_is_taken() -> None:
    supernet = made(MODELS[0])
    calibration = calibration_of(supernet)
    ordering = sort_by_importance(supernet, calibration.images_BCHW)
    assert list(ordering.losses) == [*SORTED, DEPTH]
    for axis, losses in ordering.losses.items():
        assert losses[ordering.criteria[axis]] == min(losses.values())
        assert set(losses) == {"none", *CRITERIA}
    with torch.no_grad():
        found, expected = (net.network(calibration.images_BCHW) for net in (ordering.supernet, supernet))
    assert torch.allclose(found, expected, atol=1e-5)
    assert get_space(ordering.supernet.space.name, 10).name == ordering.supernet.space.name


def test_other_spaces_and_criteria_are_refused() -> None:
    images_BCHW = torch.zeros(1, 3, 32, 32)
    with pytest.raises(TimmModelError, match="not that of a timm model"):
        sort_by_importance(Supernet(get_space("elastic-mini")), images_BCHW)
    with pytest.raises(ValueError, match="criterion `size`: expected one of"):
        sort_by_importance(made(MODELS[0]), images_BCHW, criteria=("size",))
