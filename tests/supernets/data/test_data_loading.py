"""Reading images ahead of time: worker processes that stay, shards, damaged files and dead workers."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from supernets.data import stored_images
from supernets.data.image_data import ImageData, divide
from supernets.data.image_files import FileStore
from supernets.data.image_loader import default_workers
from supernets.data.sources import load_data
from supernets.data.stored_images import StoredData
from supernets.errors import DataError

Batches = list[tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(30):
            image = Image.fromarray(pixels.integers(0, 256, (12, 12, 3), dtype=np.uint8))
            image.save(tmp_path / name / f"{number:02}.png")
    return tmp_path


@pytest.fixture
def two_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small a source may have two damaged images."""
    monkeypatch.setattr(stored_images, "DAMAGED_SHARE", 0.06)


def load(folder: Path, workers: int) -> ImageData:
    return load_data(str(folder), 8, workers=workers)


def assert_same(left: Batches, right: Batches) -> None:
    assert len(left) == len(right) > 0
    for (images, labels), (other_images, other_labels) in zip(left, right, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


def training_files(data: ImageData) -> list[Path]:
    assert isinstance(data, StoredData)
    store = data._store
    assert isinstance(store, FileStore)
    return [store.root / store.names[index] for index in data.division.parts["train"].tolist()]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:150])


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_shards_make_up_the_batch(folder: Path, world: int) -> None:
    data = load(folder, 0)
    whole = list(data.train_batches(6, 1, 0))
    shards = [list(data.train_batches(6, 1, 0, shard=(rank, world))) for rank in range(world)]
    for rank, shard in enumerate(shards):
        assert_same(shard, [(images[rank::world], labels[rank::world]) for images, labels in whole])


def test_worker_processes_stay_for_the_next_epoch(folder: Path) -> None:
    others = children()
    data = load(folder, 2)
    seen = []
    for epoch in range(2):
        list(data.train_batches(4, 0, epoch))
        seen.append(children() - others)
    list(data.batches("test", 4))
    assert len(seen[0]) == 2
    assert seen[0] == seen[1] == children() - others


def test_an_epoch_may_be_left_and_another_begun(folder: Path) -> None:
    alone, helped = load(folder, 0), load(folder, 2)
    for epoch in range(3):
        assert_same(
            list(islice(helped.train_batches(3, 0, epoch), 4)), list(islice(alone.train_batches(3, 0, epoch), 4))
        )
    assert_same(list(helped.train_batches(3, 0, 9)), list(alone.train_batches(3, 0, 9)))


def test_two_readings_at_a_time_do_not_disturb_each_other(folder: Path) -> None:
    alone, helped = load(folder, 0), load(folder, 2)
    first = helped.train_batches(3, 0, 0)
    begun = list(islice(first, 3))
    assert_same(list(helped.train_batches(5, 0, 1)), list(alone.train_batches(5, 0, 1)))
    assert_same(list(helped.batches("test", 4)), list(alone.batches("test", 4)))
    assert_same([*begun, *first], list(alone.train_batches(3, 0, 0)))
    assert_same(list(helped.train_batches(3, 0, 2)), list(alone.train_batches(3, 0, 2)))


def test_a_damaged_training_image_is_replaced_by_its_neighbour(
    folder: Path, two_spare: None, caplog: pytest.LogCaptureFixture
) -> None:
    files = training_files(load(folder, 0))
    data = [load(folder, workers) for workers in (0, 2)]
    truncate(files[4])
    with caplog.at_level(logging.WARNING, "supernets.data.stored_images"):
        batches = [list(images.train_batches(len(files), 0, 0)) for images in data]
        again = list(data[0].train_batches(len(files), 0, 0))
    assert_same(batches[0], batches[1])
    assert_same(batches[0], again)
    assert len([record for record in caplog.records if str(files[4]) in record.getMessage()]) == len(data)
    assert "another training image takes its place (1 so far)" in caplog.text
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence([0, 0]))).permutation(len(files))
    place = order.tolist().index(4)
    assert int(batches[0][0][1][place]) == int(files[5].parent.name == "dog")
    assert isinstance(data[0], StoredData)
    assert list(data[0].damaged) == [int(data[0].division.parts["train"][4])]


def test_shards_replace_the_same_image(folder: Path, two_spare: None) -> None:
    data, other = load(folder, 0), load(folder, 0)
    truncate(training_files(data)[4])
    whole = list(data.train_batches(12, 0, 0))
    for rank in range(2):
        shard = other.train_batches(12, 0, 0, shard=(rank, 2))
        assert_same(list(shard), [(images[rank::2], labels[rank::2]) for images, labels in whole])


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_damaged_images_are_an_error_that_names_them(folder: Path, two_spare: None, workers: int) -> None:
    data = load(folder, workers)
    damaged = training_files(data)[3:9:2]
    for path in damaged:
        truncate(path)
    with pytest.raises(DataError, match="3 training images cannot be read, more than 2: image `") as caught:
        list(data.train_batches(3, 0, 0))
    assert all(str(path) in str(caught.value) for path in damaged)
    assert caught.value.hint == "put intact copies in their place, then resume"


def test_a_damaged_image_that_is_judged_is_an_error(folder: Path, two_spare: None) -> None:
    data = load(folder, 0)
    assert isinstance(data, StoredData)
    assert isinstance(data._store, FileStore)
    truncate(folder / data._store.names[int(data.division.parts["test"][0])])
    with pytest.raises(DataError, match=r"image `.*`: cannot be read"):
        list(data.batches("test", 4))


def test_a_worker_that_dies_is_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    others = children()
    data = load(folder, 2)
    batches = data.train_batches(1, 0, 0)
    first = next(batches)
    os.kill(min(children() - others), signal.SIGKILL)
    with caplog.at_level(logging.WARNING, "supernets.data.reader_process"):
        assert_same([first, *batches], list(load(folder, 0).train_batches(1, 0, 0)))
    assert "died (killed by SIGKILL); another one takes over" in caplog.text
    assert len(children() - others) == 2


def test_processes_that_train_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    found = []
    for processes in ("1", "4", "99"):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        found.append(default_workers())
    assert found == [15, 3, 1]


def test_a_search_part_of_a_large_source_is_no_larger_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernets.data.image_data.MOST_SEARCHED", 50)
    labels = np.repeat(np.arange(2), 400)
    names = [f"{number}.png" for number in range(800)]
    parts = divide(names, labels, ("a", "b"), 0, {"search": 0.15, "test": 0.2}, "x")
    assert {part: len(indices) for part, indices in parts.items()} == {"search": 50, "test": 160, "train": 590}
    assert np.bincount(labels[parts["search"]]).tolist() == [25, 25]
