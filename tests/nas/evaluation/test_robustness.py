"""Accuracy on disturbed images: what is disturbed, and that nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.evaluation.accuracy import accuracy_of
from nas.evaluation.robustness import PLAIN, disturbances, patch_side, replace_patches, robustness
from supernets.data.sources import load_data

IMAGES_BCHW = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def brightest_row(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Logits of ten classes, each a stripe of rows."""
    return torch.stack([stripe.mean(dim=(1, 2, 3)) for stripe in x_BCHW.tensor_split(10, dim=2)], dim=1)


def test_undisturbed_is_plain_accuracy_and_all_see_the_same() -> None:
    data = load_data("digits", 32)
    found = robustness({"one": brightest_row, "two": brightest_row}, data, seed=3)
    assert found[PLAIN]["one"] == accuracy_of(brightest_row, data, "test", "cpu")
    assert all(entry["one"] == entry["two"] for entry in found.values())
    assert found == robustness({"one": brightest_row, "two": brightest_row}, data, seed=3)
    assert len(found) == len(disturbances()) == 12


@pytest.mark.parametrize("name", [name for name in disturbances() if name != PLAIN])
def test_images_are_disturbed_but_stay_images(name: str) -> None:
    again = IMAGES_BCHW.clone()
    found = disturbances()[name](IMAGES_BCHW, np.random.default_rng(0))
    assert found.shape == IMAGES_BCHW.shape
    assert torch.equal(IMAGES_BCHW, again)
    assert 0.0 < float((found - IMAGES_BCHW).abs().mean()) < 0.3


@pytest.mark.parametrize(("is_on_grid", "count"), [(True, 1), (True, 4), (False, 2)])
def test_as_many_patches_come_from_the_next_image(is_on_grid: bool, count: int) -> None:
    found = replace_patches(IMAGES_BCHW, np.random.default_rng(1), count, is_on_grid)
    side = patch_side(32)
    assert (side, patch_side(224), patch_side(112)) == (4, 16, 8)
    for number in range(3):
        differs = (found[number] != IMAGES_BCHW[number]).all(dim=0)
        assert int(differs.sum()) == count * side * side
        assert torch.equal(found[number][:, differs], IMAGES_BCHW[(number + 1) % 3][:, differs])
        rows = torch.nonzero(differs.any(dim=1))[:, 0]
        assert int(rows[0]) % side == (0 if is_on_grid else side // 2)
