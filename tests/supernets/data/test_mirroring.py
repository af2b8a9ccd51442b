"""Mirrored training images: where they stay of their class, and how they are had or left out all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernets.data.mirroring import is_of_characters, mirroring_of
from supernets.data.sources import load_data


@pytest.mark.parametrize(
    "names",
    [
        ("turn-left", "turn-right"),
        ("TurnLeft", "TurnRight", "Stop"),
        ("links abbiegen", "rechts abbiegen"),
        ("flèche_gauche", "flèche_droite"),
        ("izquierda", "derecha", "recto"),
        ("hand L", "hand R"),
        ("arrow_east", "arrow_west"),
        ("clockwise", "counterclockwise"),
        tuple("0123456789"),
        tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        tuple(f"digit_{number}" for number in range(10)),
    ],
)
def test_classes_that_a_mirror_changes(names: tuple[str, ...]) -> None:
    may_be, remark = mirroring_of("pictures", names)
    assert not may_be
    assert "`--set hflip=0.5`" in remark


@pytest.mark.parametrize("names", [("left_lung", "heart"), ("keep right", "stop"), ("rechts", "geradeaus")])
def test_classes_that_a_mirror_may_change_are_named(names: tuple[str, ...]) -> None:
    may_be, remark = mirroring_of("pictures", names)
    assert may_be
    assert f"class `{names[0]}`" in remark
    assert "`--set hflip=0`" in remark


@pytest.mark.parametrize(
    "names", [("cat", "dog"), ("a", "b"), ("0", "1"), ("up", "down"), ("leftover", "copyright"), ("links", "texts")]
)
def test_classes_that_may_be_mirrored(names: tuple[str, ...]) -> None:
    assert mirroring_of("pictures", names) == (True, "")


@pytest.mark.parametrize(
    ("name", "is_so"),
    [
        ("torch/mnist", True), ("torch/KMNIST", True), ("torch/qmnist", True), ("torch/emnist", True),
        ("torch/svhn", True), ("hfds/ufldl-stanford/svhn", True), ("hfds/ylecun/mnist", True), ("torch/usps", True),
        ("torch/gtsrb", True), ("torch/omniglot", True), ("hfds/tanganke/emnist_letters", True),
        ("torch/fashion_mnist", False), ("hfds/zalando-datasets/fashion-mnist", False), ("torch/cifar10", False),
        ("hfds/ethz/food101", False), ("torch/FashionMNIST", False),
    ],
)  # fmt: skip
def test_data_sets_of_characters(name: str, is_so: bool) -> None:
    assert is_of_characters(name) is is_so


@pytest.fixture
def arrows(tmp_path: Path) -> Path:
    """Images that are bright on the side that their class names, and nowhere else."""
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        for number in range(10):
            pixels = np.zeros((16, 16, 3), np.uint8)
            pixels[:, :4] = 255
            Image.fromarray(pixels if name == "left" else pixels[:, ::-1]).save(tmp_path / name / f"{number}.png")
    return tmp_path


def share_on_the_wrong_side(folder: str, hflip: float | None) -> float:
    data = load_data(folder, 16, workers=0, hflip=hflip)
    wrong = []
    for epoch in range(4):
        for images, labels in data.train_batches(4, 0, epoch):
            left, right = images[..., :6].mean(dim=(1, 2, 3)), images[..., 10:].mean(dim=(1, 2, 3))
            wrong += ((left < right) != (labels == 1)).tolist()
    return sum(wrong) / len(wrong)


def test_mirroring_is_left_out_asked_for_and_chosen(arrows: Path) -> None:
    assert share_on_the_wrong_side(str(arrows), None) == share_on_the_wrong_side(str(arrows), 0.0) < 0.2
    assert 0.3 < share_on_the_wrong_side(str(arrows), 0.5) < 0.7
    assert share_on_the_wrong_side(str(arrows), 1.0) > 0.8


def test_digits_are_mirrored_where_that_is_asked_for() -> None:
    plain, kept, turned = (load_data("digits", 16, hflip=hflip) for hflip in (None, 0.0, 1.0))
    (images, _), (same, _), (mirrored, _) = (next(data.train_batches(64, 0, 0)) for data in (plain, kept, turned))
    assert torch.equal(images, same)
    assert not torch.equal(images, mirrored)
    difference = (mirrored.flip(-1) - images).abs().mean()
    assert difference < 0.8 * (mirrored - images).abs().mean()
