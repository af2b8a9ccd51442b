"""Named augmentations and the mixing of images: as published, and from given numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from supernets.data.augmentation import (
    AUGMENTATIONS,
    ELASTICVIT,
    LIGHT,
    RESNAS,
    Augmentation,
    get_augmentation,
    mix_images,
)
from supernets.data.augmentation import training_transform as make_transform
from supernets.data.sources import load_data
from supernets.errors import DataError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def steps(transform: Any) -> dict[str, Any]:
    return {type(step).__name__: step for step in transform.transforms}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, pixels = tmp_path_factory.mktemp("images"), generator()
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for number in range(8):
            Image.fromarray(pixels.integers(0, 256, (160, 150, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("augmentation", "operations", "magnitude", "erasing", "mixing"),
    [
        (LIGHT, 1, 1, 0.01, (0, 0)),
        (ELASTICVIT, 1, 1, 0.01, (0.01, 0.01)),
        (RESNAS, 2, 9, 0.25, (0, 0)),
    ],
)
def test_augmentations_are_the_published_ones(
    augmentation: Augmentation, operations: int, magnitude: int, erasing: float, mixing: tuple[float, float]
) -> None:
    found = steps(make_transform(augmentation, 224, MEAN, STD, hflip=0.5))
    crop, randomised = found["RandomResizedCropAndInterpolation"], found["RandAugment"]
    assert crop.size == (224, 224)
    assert crop.scale == (0.08, 1.0)
    assert "bicubic" in str(crop.interpolation).lower()
    assert found["RandomHorizontalFlip"].p == 0.5
    assert randomised.num_layers == operations
    assert {operation.magnitude for operation in randomised.ops} == {magnitude}
    assert {operation.magnitude_std for operation in randomised.ops} == {0.5}
    assert found["RandomErasing"].probability == erasing
    assert (augmentation.mixup, augmentation.cutmix) == mixing
    assert steps(make_transform(augmentation, 32, MEAN, STD, hflip=0.0)).keys().isdisjoint({"RandomHorizontalFlip"})


def test_an_augmentation_that_is_not_known() -> None:
    with pytest.raises(DataError, match="augmentation `elasticnet`: not known, expected one of `light`") as caught:
        get_augmentation("elasticnet")
    assert caught.value.hint == "did you mean `elasticvit`?"


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("source", ["digits", "folder"])
def test_an_image_looks_the_same_in_any_shard_and_any_process(name: str, source: str, folder: Path) -> None:
    path = str(folder) if source == "folder" else source
    whole, helped = load_data(path, 32, workers=0, augmentation=name), load_data(path, 32, workers=2, augmentation=name)
    images, labels = next(whole.train_batches(4, 0, 1))
    others, _ = next(whole.train_batches(4, 0, 2))
    assert not torch.equal(images, others)
    for rank in range(2):
        mine, its_labels = next(helped.train_batches(4, 0, 1, shard=(rank, 2)))
        assert torch.equal(mine, images[rank::2])
        assert torch.equal(its_labels, labels[rank::2])


def test_augmentations_differ_and_leave_judged_images_alone(folder: Path) -> None:
    data = [load_data(str(folder), 32, workers=0, augmentation=name) for name in ("light", "resnas")]
    trained = [next(images.train_batches(4, 0, 0))[0] for images in data]
    assert not torch.equal(trained[0], trained[1])
    judged = [torch.cat([batch for batch, _ in images.batches("test", 4)]) for images in data]
    assert torch.equal(judged[0], judged[1])


def batch(count: int = 8, side: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(count) % 5


def test_without_mixing_targets_are_smoothed_labels() -> None:
    images, labels = batch()
    mixed, targets = mix_images(images, labels, 5, LIGHT, 0.1, generator())
    assert torch.equal(mixed, images)
    assert torch.allclose(targets, torch.nn.functional.one_hot(labels, 5) * 0.9 + 0.02)


def test_mixup_blends_images_and_labels_alike() -> None:
    images, labels = batch()
    mixed, targets = mix_images(images, labels, 5, Augmentation("x", "", 0, "const", mixup=1.0), 0.0, generator())
    kept = float(targets[0, labels[0]])
    assert 0.01 < kept < 0.99
    partners = images.roll(4, dims=0)
    assert torch.allclose(mixed, kept * images + (1 - kept) * partners, atol=1e-5)
    assert torch.allclose(targets.sum(dim=1), torch.ones(8))


def test_cutmix_pastes_a_rectangle_and_weighs_labels_by_its_area() -> None:
    images, labels = batch()
    before = images.clone()
    augmentation = Augmentation("x", "", 0, "const", cutmix=1.0)
    for seed in range(20):
        mixed, targets = mix_images(images, labels, 5, augmentation, 0.0, generator(seed))
        pasted = (mixed != images).any(dim=1)
        assert torch.equal(torch.where(pasted[:, None], images.roll(4, dims=0), images), mixed)
        rows, columns = pasted[0].any(dim=1).sum(), pasted[0].any(dim=0).sum()
        assert int(pasted[0].sum()) == int(rows * columns)
        assert torch.allclose(targets[0, labels[0]], 1 - pasted[0].float().mean())
    assert torch.equal(images, before)


def test_mixing_is_mostly_off_as_published_and_both_kinds_occur() -> None:
    images, labels = batch()
    draws, weights, pasted = generator(), [], 0
    for _ in range(200):
        mixed, targets = mix_images(images, labels, 5, ELASTICVIT, 0.0, draws)
        weights.append(float(targets[0, 0]))
        is_pasted = torch.equal(torch.where(mixed == images, images, images.roll(4, dims=0)), mixed)
        pasted += is_pasted and not torch.equal(mixed, images)
    assert 0.4 < np.mean([weight > 0.98 for weight in weights])
    assert 20 < pasted < 120


def test_the_strongest_posterisation_leaves_a_picture() -> None:
    operations = steps(make_transform(RESNAS, 224, MEAN, STD, hflip=0.5))["RandAugment"].ops
    (posterise,) = [operation for operation in operations if operation.name == "PosterizeIncreasing"]
    posterise.prob, posterise.magnitude, posterise.magnitude_std = 1.0, 10, 0
    picture = Image.fromarray(generator().integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert set(np.unique(np.asarray(posterise(picture)))) == {0, 128}


def test_processes_mix_their_shares_as_one_process_mixes_all() -> None:
    images, labels = batch(16)
    for augmentation in (Augmentation("x", "", 0, "const", mixup=1.0), Augmentation("x", "", 0, "const", cutmix=1.0)):
        mixed, targets = mix_images(images, labels, 5, augmentation, 0.1, generator(3))
        for rank in range(4):
            mine, its_targets = mix_images(images[rank::4], labels[rank::4], 5, augmentation, 0.1, generator(3))
            assert torch.equal(mine, mixed[rank::4])
            assert torch.equal(its_targets, targets[rank::4])
