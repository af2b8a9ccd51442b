"""Image sources: parts that never overlap, batches that depend on numbers alone, and errors that say what is wrong."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search_spaces import get_space
from supernets.data.digits import DigitsSource
from supernets.data.image_data import PARTS, ImageData, LoadOptions, divide
from supernets.data.memory_images import AffineRanges
from supernets.data.sources import load_data
from supernets.errors import DataError
from supernets.supernet import Supernet
from supernets.training.losses import label_loss

RNG = np.random.default_rng(0)


def write_image(path: Path, side: int = 12) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def write_folder(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            write_image(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data("digits", 32)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "images", {"cat": 20, "dog": 14})


def assert_same_batches(left: list[tuple[torch.Tensor, torch.Tensor]], right: list[tuple[torch.Tensor, torch.Tensor]]):
    assert len(left) == len(right) > 0
    for (images, labels), (other_images, other_labels) in zip(left, right, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def test_digits_are_divided_into_disjoint_parts_with_all_classes_in_each(digits: ImageData) -> None:
    parts = digits.division.parts
    everything = np.concatenate([parts[part] for part in PARTS])
    assert sorted(everything.tolist()) == list(range(1797))
    assert digits.splits == {"search": 269, "test": 359, "train": 1169}
    for part in PARTS:
        labels = torch.cat([labels for _, labels in digits.batches(part, 100)])
        counts = torch.bincount(labels, minlength=10)
        assert counts.min() >= 0.8 * counts.max()


def test_the_division_is_the_same_every_time_and_another_for_another_seed(digits: ImageData) -> None:
    assert load_data("digits", 16).division.digest == digits.division.digest
    assert load_data("digits", 32, seed=1).division.digest != digits.division.digest


def test_digits_are_normalised_images_of_three_equal_colours(digits: ImageData) -> None:
    images = torch.cat([images for images, _ in digits.batches("train", 200)])
    assert images.shape == (1169, 3, 32, 32)
    assert images.dtype == torch.float32
    assert torch.equal(images[:, 0], images[:, 2])
    assert abs(float(images.mean())) < 1e-3
    assert abs(float(images.std()) - 1) < 1e-3


def test_an_epoch_shows_every_training_image_once_and_no_other(digits: ImageData) -> None:
    still = DigitsSource(AffineRanges(degrees=0, shift=0, scale=0, shear=0)).load("digits", LoadOptions(32))
    shown = torch.cat([images for images, _ in still.train_batches(7, seed=0, epoch=0)])
    assert len(shown) == digits.steps_per_epoch(7) * 7 == 1169
    plain = torch.cat([images for images, _ in digits.batches("train", 500)])

    def sums(images: torch.Tensor) -> list[float]:
        return sorted(images.double().sum(dim=(1, 2, 3)).round(decimals=1).tolist())

    assert np.allclose(sums(shown), sums(plain), atol=0.5)


def test_augmentation_changes_digits_a_little(digits: ImageData) -> None:
    moved = next(digits.train_batches(200, seed=0, epoch=0))[0]
    again = next(digits.train_batches(200, seed=0, epoch=1))[0]
    assert moved.shape == again.shape
    assert float((moved - again).abs().mean()) > 0.1
    assert abs(float(moved.mean())) < 0.2


def test_augmenting_digits_costs_little_beside_a_training_step(digits: ImageData, one_thread: None) -> None:
    supernet = Supernet(get_space("elastic-mini"))
    list(digits.train_batches(64, seed=0, epoch=0))
    began = time.thread_time()
    batches = list(digits.train_batches(64, seed=0, epoch=1))
    augmenting = (time.thread_time() - began) / len(batches)
    began = time.thread_time()
    with supernet.borrow(supernet.space.largest) as subnet:
        label_loss(subnet(batches[0][0]), batches[0][1]).backward()
    assert augmenting < 0.1 * (time.thread_time() - began)


def test_a_folder_is_divided_by_name(folder: Path) -> None:
    data = load_data(str(folder), 16, workers=0)
    assert data.class_names == ("cat", "dog")
    assert data.splits == {"search": 5, "test": 7, "train": 22}
    images, labels = next(data.batches("test", 100))
    assert images.shape == (7, 3, 16, 16)
    assert torch.bincount(labels).tolist() == [4, 3]
    write_image(folder / "cat" / "more.png")
    changed = load_data(str(folder), 16, workers=0)
    with pytest.raises(DataError, match=r"sizes changed since the run was started"):
        changed.check(data.describe())


def test_a_description_survives_json_and_notices_a_renamed_file(folder: Path) -> None:
    data = load_data(str(folder), 16, workers=0)
    recorded = json.loads(json.dumps(data.describe()))
    data.check(recorded)
    (folder / "cat" / "3.png").rename(folder / "cat" / "30.png")
    with pytest.raises(DataError, match="the files changed since the run was started") as caught:
        load_data(str(folder), 16, workers=0).check(recorded)
    assert "new run folder" in caught.value.hint


def test_replaced_files_are_the_same_images_and_said_to_be_replaced(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = load_data(str(folder), 16, workers=0).describe()
    write_image(folder / "cat" / "3.png", side=30)
    load_data(str(folder), 16, workers=0).check(recorded)
    assert "names and classes are those of the run, but files have other sizes now" in caplog.text


def test_a_repaired_file_is_no_other_data_set(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = load_data(str(folder), 16, workers=0)._store.names[0]  # type: ignore[attr-defined]
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:99])
    damaged = load_data(str(folder), 16, workers=0)
    assert damaged.division.skipped == (name,)
    assert sum(damaged.splits.values()) == 33
    (folder / name).write_bytes(whole)
    repaired = load_data(str(folder), 16, workers=0)
    repaired.check(json.loads(json.dumps(damaged.describe())))
    assert f"but images can be read now: 1 (`{name}`)" in caplog.text
    assert repaired.describe()["digest"] == damaged.describe()["digest"]
    for part in PARTS:
        assert set(damaged.division.parts[part]) <= set(repaired.division.parts[part])
    damaged.check(repaired.describe())
    assert f"but images no longer can: 1 (`{name}`)" in caplog.text


def test_what_an_earlier_release_recorded_is_recognised(folder: Path) -> None:
    data = load_data(str(folder), 16, workers=0)
    digest = hashlib.sha256()
    names = data._store.names  # type: ignore[attr-defined]
    for part in PARTS:
        files = [names[index] for index in data.division.parts[part].tolist()]
        for line in sorted(f"{part}\t{name}\t{(folder / name).stat().st_size}\n" for name in files):
            digest.update(line.encode())
    kept = {key: value for key, value in data.describe().items() if key not in ("contents", "skipped")}
    data.check({**kept, "digest": digest.hexdigest()})
    write_image(folder / "cat" / "3.png", side=30)
    with pytest.raises(DataError, match="the files changed"):
        load_data(str(folder), 16, workers=0).check({**kept, "digest": digest.hexdigest()})


def test_batches_of_a_folder_do_not_depend_on_worker_processes(folder: Path) -> None:
    alone, helped = load_data(str(folder), 16, workers=0), load_data(str(folder), 16, workers=2)
    for epoch in (0, 1):
        batches = list(alone.train_batches(8, seed=5, epoch=epoch))
        assert_same_batches(batches, list(helped.train_batches(8, seed=5, epoch=epoch)))
        assert_same_batches(batches[1:], list(helped.train_batches(8, seed=5, epoch=epoch, start=1)))
    assert_same_batches(list(alone.batches("search", 2)), list(helped.batches("search", 2)))
    assert_same_batches(list(alone.batches("search", 2)), list(alone.batches("search", 2)))


def test_parts_that_a_folder_comes_with_are_kept(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("val", 3), ("test", 2)):
        write_folder(tmp_path / part, {"cat": count, "dog": count})
    data = load_data(str(tmp_path), 16, workers=0)
    assert data.splits == {"train": 20, "search": 6, "test": 4}
    assert next(data.batches("test", 10))[1].tolist() == [0, 0, 1, 1]


def test_a_lone_val_folder_is_the_test_part(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("val", 3)):
        write_folder(tmp_path / part, {"cat": count, "dog": count})
    data = load_data(str(tmp_path), 16, workers=0)
    assert data.splits == {"search": 6, "train": 34, "test": 6}
    taken = set(data.division.parts["search"].tolist()) | set(data.division.parts["train"].tolist())
    assert taken == set(range(40))


def test_a_timm_dataset_is_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    write_mnist(tmp_path / "datasets" / "MNIST" / "raw", {"train": 100, "t10k": 30})
    data = load_data("torch/mnist", 16, workers=0)
    assert data.splits == {"search": 20, "train": 80, "test": 30}
    assert data.classes == 10
    images, labels = next(data.batches("test", 30))
    assert images.shape == (30, 3, 16, 16)
    assert labels.tolist() == [number % 10 for number in range(30)]
    assert next(data.train_batches(16, seed=0, epoch=0))[0].shape == (16, 3, 16, 16)


def write_mnist(folder: Path, counts: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    for name, count in counts.items():
        pixels = RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            header = (0x800 + array.ndim).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (folder / f"{name}-{kind}-ubyte").write_bytes(header + array.tobytes())


@pytest.mark.parametrize(
    ("source", "message", "hint"),
    [
        ("digit", "data `digit`: no such folder, and no source of that name", "did you mean `digits`?"),
        ("./photos", "data `./photos`: no such folder", "expected `digits`, `glyphs`, a folder of images"),
        ("hfds/somebody/cats", "data `hfds/somebody/cats`: needs the package `datasets`", "pip install datasets"),
        ("torch/nonsense", "data `torch/nonsense`: timm cannot load its `train` split", "check the name"),
    ],
)
def test_sources_that_do_not_exist(
    source: str, message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("supernets.data.timm_datasets.find_spec", lambda _name: None)
    with pytest.raises(DataError) as caught:
        load_data(source, 16)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="found a file, expected a folder"):
        load_data(str(tmp_path / "images.zip"), 16)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder is empty, expected a sub-folder of images per class"):
        load_data(str(tmp_path), 16)


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"found no readable image among 2 files \(\.txt\)") as caught:
        load_data(str(tmp_path), 16)
    assert ".png" in caught.value.hint


def test_images_without_class_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png")
    with pytest.raises(DataError, match="found images beside each other, expected a sub-folder of images per class"):
        load_data(str(tmp_path), 16)


def test_one_class_only(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 9})
    with pytest.raises(DataError, match=r"found one class \(`cat`\), expected two or more"):
        load_data(str(tmp_path), 16)


def test_too_few_images_in_a_class(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 9, "dog": 1})
    with pytest.raises(DataError, match="class `dog` has 1 image, expected 5 or more"):
        load_data(str(tmp_path), 16)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_was_cut_short_since_it_was_loaded_is_named(folder: Path, workers: int) -> None:
    data = load_data(str(folder), 16, workers=workers)
    for path in (folder / "dog").iterdir():
        path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"image `.*dog/\d+\.png`: cannot be read") as caught:
        list(data.train_batches(4, seed=0, epoch=0))
    assert caught.value.hint == "put intact copies in their place, then resume"


def test_a_class_of_val_that_train_lacks(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"cat": 9, "dog": 9})
    write_folder(tmp_path / "val", {"cat": 2, "cow": 2})
    with pytest.raises(DataError, match="class `cow` is not among those to train on, `cat`, `dog`"):
        load_data(str(tmp_path), 16)


def test_a_division_does_not_depend_on_the_order_of_names() -> None:
    names, labels = [f"{i}.png" for i in range(40)], np.arange(40) % 2
    order = RNG.permutation(40)
    parts = divide(names, labels, ("a", "b"), 0, {"search": 0.15, "test": 0.2}, "x")
    shuffled = divide([names[i] for i in order], labels[order], ("a", "b"), 0, {"search": 0.15, "test": 0.2}, "x")
    for part in PARTS:
        assert {names[i] for i in parts[part]} == {names[order[i]] for i in shuffled[part]}
