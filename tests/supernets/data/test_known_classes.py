"""Images of classes that a trained network knows: by number, name or place; maps of loose images; held-out halves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernets.data.known_classes import class_rows, imagenet_described, imagenet_names, with_known_classes
from supernets.data.sources import load_data
from supernets.errors import DataError

IMAGENET = imagenet_names()


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(path)


def folder_of(top: Path, classes: Mapping[str, int], count: int = 8) -> Path:
    for name, shade in classes.items():
        for number in range(count):
            picture(top / name / f"{shade}-{number}.png", shade)
    return top


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["n01440764", "n01443537"], [0, 1]),
        (["n01443537_goldfish", "n01440764 tench"], [1, 0]),
        (["Goldfish", "tench", "great_white-shark"], [1, 0, 2]),
        (["0", "10", "2"], [0, 10, 2]),
    ],
)
def test_classes_are_told_by_number_name_or_place(names: list[str], expected: list[int]) -> None:
    assert class_rows(IMAGENET, names, "photos") == expected


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tench", "my cat"], "class `my cat` is none of ImageNet's classes"),
        (["tench", "crane"], "class `crane` is both `n02012849` and `n03126707`"),
        ([str(number) for number in range(1, 1001)], "numbered from 1 to 1000, expected 0 to 999"),
    ],
)
def test_classes_that_are_not_known_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_rows(IMAGENET, names, "photos")


def test_images_of_some_classes_have_the_labels_of_the_network(tmp_path: Path) -> None:
    top = folder_of(tmp_path / "photos", {"goldfish": 200, "n01440764": 20})
    images = with_known_classes(load_data(str(top), 8), 1000, imagenet_described(1000))
    assert images.classes == 1000
    found = {
        (int(label), bool(x_CHW.mean() > 0))
        for x_BCHW, labels in (
            *images.batches("search", 4),
            *images.batches("test", 4),
            next(images.train_batches(4, 0, 0)),
        )
        for x_CHW, label in zip(x_BCHW, labels, strict=True)
    }
    assert found == {(0, False), (1, True)}


def test_weights_without_names_need_as_many_classes(tmp_path: Path) -> None:
    images = load_data(str(folder_of(tmp_path, {"a": 1, "b": 2})), 8)
    assert with_known_classes(images, 2, {}) is images
    with pytest.raises(DataError, match="found 2 classes, the imported weights tell 3"):
        with_known_classes(images, 3, {})


def test_search_and_test_are_halves_of_what_is_held_out(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"a": 1, "b": 2})
    folder_of(tmp_path / "val", {"a": 1, "b": 2})
    usual, halved = load_data(str(tmp_path), 8), load_data(str(tmp_path), 8, trained_elsewhere=True)
    assert usual.splits["test"] == 16
    assert halved.splits == {"train": 16, "search": 8, "test": 8}
    held_out = np.concatenate([halved.division.parts[part] for part in ("search", "test")])
    assert sorted(held_out) == usual.division.parts["test"].tolist()


LINES = {
    "val.txt": "{name}.png {place}",
    "LOC_val_solution.csv": "{name},{number} 85 1 499 272",
    "labels.tsv": 'val/{name}.png\t"{words}"',
}


@pytest.mark.parametrize("map_name", LINES)
def test_a_map_says_the_classes_of_loose_images(map_name: str, tmp_path: Path) -> None:
    kinds = [("0", "n01440764", "tench"), ("2", "n01484850", "great white shark")]
    lines = ["ImageId,PredictionString"]
    for index in range(20):
        place, number, words = kinds[index % 2]
        name = f"ILSVRC2012_val_{index:08d}"
        picture(tmp_path / "val" / f"{name}.png", 250 * (index % 2))
        lines.append(LINES[map_name].format(name=name, place=place, number=number, words=words))
    (tmp_path / map_name).write_text("\n".join(lines))
    images = with_known_classes(load_data(str(tmp_path / "val"), 8), 1000, imagenet_described(1000))
    assert sum(images.splits.values()) == 20
    for x_BCHW, labels in images.batches("search", 4):
        assert [2 if float(x_CHW.mean()) > 0 else 0 for x_CHW in x_BCHW] == labels.tolist()
    picture(tmp_path / "val" / "late.png", 1)
    with pytest.raises(DataError, match=r"says no class of 1 images: `late\.png`"):
        load_data(str(tmp_path / "val"), 8)
