"""The glyphs: rendered alike every time, divided evenly, and about as hard as they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from supernets.data.glyphs import CHARACTERS, PER_CLASS, render_glyphs
from supernets.data.image_data import PARTS, ImageData
from supernets.data.sources import load_data


@pytest.fixture(scope="module")
def glyphs() -> ImageData:
    return load_data("glyphs", 32)


def test_glyphs_are_divided_evenly(glyphs: ImageData) -> None:
    assert glyphs.classes == len(set(CHARACTERS)) == len(CHARACTERS)
    assert glyphs.splits["train"] == 200 * glyphs.classes
    assert sum(glyphs.splits.values()) == PER_CLASS * glyphs.classes
    for part in PARTS:
        labels = torch.cat([labels for _, labels in glyphs.batches(part, 2000)])
        assert len(set(torch.bincount(labels).tolist())) == 1


def test_glyphs_are_rendered_alike_every_time() -> None:
    first = render_glyphs()
    render_glyphs.cache_clear()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert torch.equal(render_glyphs(), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_two_glyphs_are_alike_and_all_have_contrast() -> None:
    images = render_glyphs().flatten(1)
    assert len(np.unique(images.numpy(), axis=0)) == len(images)
    assert float(images.float().std(dim=1).min()) > 10
    assert images.dtype == torch.uint8


def test_a_character_looks_more_like_its_own_mean_than_like_others(glyphs: ImageData) -> None:
    """Learnable, yet not by looking at pixels alone."""
    images, labels = (torch.cat(tensors) for tensors in zip(*glyphs.batches("train", 2000), strict=True))
    means = torch.stack([images[labels == label].mean(dim=0).flatten() for label in range(glyphs.classes)])
    judged, expected = (torch.cat(tensors) for tensors in zip(*glyphs.batches("search", 2000), strict=True))
    found = torch.cdist(judged.flatten(1), means).argmin(dim=1)
    accuracy = float((found == expected).float().mean())
    assert 3 / glyphs.classes < accuracy < 0.5


@pytest.mark.parametrize("side", [16, 48])
def test_glyphs_come_at_any_side(side: int, glyphs: ImageData) -> None:
    data = load_data("glyphs", side)
    assert data.division.digest == glyphs.division.digest
    for images, _ in (next(data.train_batches(8, 0, 0)), next(data.batches("search", 8))):
        assert images.shape == (8, 3, side, side)
        assert torch.isfinite(images).all()
    moved, still = next(data.train_batches(4096, 0, 0))[0], next(data.batches("train", 4096))[0]
    assert float((moved.mean() - still.mean()).abs()) < 0.3
