"""Token mixing: what is drawn, and that images, targets and patch targets tell the same story."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from supernets import SupernetError
from supernets.training.token_mixing import MixedBatch, Region, draw_region, mix_tokens

CLASSES, SIDE, PIXELS = 5, 4, 3


def batch(count: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose every pixel is the number of the image, and labels."""
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].repeat(1, 3, SIDE * PIXELS, SIDE * PIXELS)
    return images, torch.arange(count) % CLASSES


def mixed(seed: int, smoothing: float = 0.0, count: int = 10) -> MixedBatch:
    images, labels = batch(count)
    return mix_tokens(images, labels, CLASSES, SIDE, smoothing, np.random.default_rng(seed))


def cells(images: torch.Tensor) -> torch.Tensor:
    """The least and the largest pixel of every patch, ``[2, B, P]``; all colours together."""
    patches = F.unfold(images, PIXELS, stride=PIXELS)
    return torch.stack([patches.amin(dim=1), patches.amax(dim=1)])


@pytest.mark.parametrize("seed", range(20))
def test_a_patch_of_the_first_half_learns_the_label_of_the_image_it_comes_from(seed: int) -> None:
    result = mixed(seed)
    lowest, highest = cells(result.images_BCHW[:5])
    assert torch.equal(lowest, highest), "rectangles are aligned with patches"
    assert (lowest < 5).all(), "halves are mixed within themselves"
    assert result.patch_targets_BPK is not None
    assert torch.equal(result.patch_targets_BPK[:5].argmax(dim=-1), lowest.long() % CLASSES)
    assert torch.equal(result.patch_targets_BPK[:5].amax(dim=-1), torch.ones(5, SIDE**2))


@pytest.mark.parametrize("seed", range(20))
def test_an_image_of_the_first_half_learns_the_mean_of_its_patches(seed: int) -> None:
    """That is 1 - h * w / P^2 of its own label, and the rest of its partner's."""
    result = mixed(seed, smoothing=0.1)
    assert result.patch_targets_BPK is not None
    assert torch.allclose(result.targets_BK[:5], result.patch_targets_BPK[:5].mean(dim=1), atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_images_of_the_second_half_are_blended_and_all_patches_learn_the_blend(seed: int) -> None:
    result = mixed(seed)
    images, targets = result.images_BCHW[5:], result.targets_BK[5:]
    assert (images == images[:, :1, :1, :1]).all()
    assert result.patch_targets_BPK is not None
    assert torch.equal(result.patch_targets_BPK[5:], targets[:, None].expand(-1, SIDE**2, -1))
    # Images are their own numbers, labels too here (5 to 9 are classes 0 to 4): both are the same blend.
    assert torch.allclose(images[:, 0, 0, 0] - 5, targets @ torch.arange(5.0), atol=1e-5)
    assert (targets > 0).sum(dim=1).max() == 2


@pytest.mark.parametrize("count", [1, 2, 7])
def test_targets_are_probabilities_whatever_the_batch(count: int) -> None:
    result = mixed(3, smoothing=0.1, count=count)
    assert result.patch_targets_BPK is not None
    assert result.images_BCHW.shape == (count, 3, SIDE * PIXELS, SIDE * PIXELS)
    assert result.patch_targets_BPK.shape == (count, SIDE**2, CLASSES)
    for probabilities in (result.targets_BK, result.patch_targets_BPK):
        assert torch.allclose(probabilities.sum(dim=-1), torch.ones(probabilities.shape[:-1]))
        assert probabilities.min() >= 0.1 / CLASSES - 1e-6


def test_smoothed_labels_are_those_of_cross_entropy() -> None:
    images, labels = batch()
    logits = torch.randn(10, CLASSES, generator=torch.Generator().manual_seed(0))
    result = mix_tokens(images[:1], labels[:1], CLASSES, SIDE, 0.1, np.random.default_rng(0))
    expected = F.cross_entropy(logits[:1], labels[:1], label_smoothing=0.1)
    assert torch.isclose(F.cross_entropy(logits[:1], result.targets_BK), expected)


class Draws:
    """A generator of given numbers: the share of patches, then height, top and left."""

    def __init__(self, share: float, *integers: int) -> None:
        self.share, self.integers_left, self.bounds = share, list(integers), []

    def random(self) -> float:
        return self.share

    def integers(self, low: int, high: int) -> int:
        self.bounds.append((low, high))
        return self.integers_left.pop(0)


@pytest.mark.parametrize(
    ("share", "integers", "region", "bounds"),
    [
        (0.0, (2, 1), Region(2, 1, 1, 0), [(0, 3), (0, 4)]),  # no patch
        (0.5, (2, 1), Region(1, 0, 2, 4), [(1, 3), (0, 2)]),  # 8 patches in 2 rows fill every column
        (0.7, (1, 1), Region(1, 0, 2, 4), [(1, 3), (0, 2)]),  # 11 patches in 1 row are too wide: 2 rows of 4
        (0.4, (2, 1, 0), Region(1, 0, 2, 3), [(1, 3), (0, 2), (0, 1)]),
        (0.19, (1, 2, 0), Region(2, 0, 1, 3), [(1, 2), (0, 3), (0, 1)]),  # 3 patches: one row
    ],
)
def test_rectangles(share: float, integers: tuple[int, ...], region: Region, bounds: list[tuple[int, int]]) -> None:
    draws = Draws(share, *integers)
    assert draw_region(4, draws) == region  # type: ignore[arg-type]
    assert draws.bounds == bounds
    assert not draws.integers_left


@pytest.mark.parametrize("side", [2, 4, 5, 7])
def test_rectangles_lie_in_the_map(side: int) -> None:
    generator = np.random.default_rng(0)
    regions = [draw_region(side, generator) for _ in range(2000)]
    assert all(r.height >= 1 and r.top + r.height <= side and r.left + r.width <= side for r in regions)
    assert len(set(regions)) > side
    shares = [region.patches / side**2 for region in regions]
    assert np.mean(shares) == pytest.approx(0.5 - 0.5 / side**2, abs=0.12)


def test_images_that_do_not_divide_are_refused() -> None:
    with pytest.raises(SupernetError, match="30 x 30 pixels cannot be cut into 4 x 4"):
        mix_tokens(torch.zeros(2, 3, 30, 30), torch.zeros(2, dtype=torch.long), 2, 4, 0.1, np.random.default_rng(0))
