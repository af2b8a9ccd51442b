"""Checkpoints: what was saved comes back to the bit, and a file that is not whole and ours is refused with a reason."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from search_spaces import get_space
from supernets.checkpoint import (
    SCHEMA,
    CheckpointMetadata,
    load_supernet,
    read_checkpoint,
    restore_weights,
    save_checkpoint,
    write_atomically,
)
from supernets.errors import CheckpointError
from supernets.supernet import Supernet

MOMENTS = {"a.weight/exp_avg": torch.arange(6.0).reshape(2, 3), "a.weight/step": torch.tensor(4.0)}


def metadata(**changes: Any) -> CheckpointMetadata:
    values: dict[str, Any] = {
        "schema": SCHEMA,
        "space": "elastic-mini",
        "version": 1,
        "classes": 10,
        "step": 4,
        "total_steps": 9,
        "data": {"source": "digits"},
        "settings": {"seed": 0},
        "training": {"seconds": 1.5},
    }
    return CheckpointMetadata(**{**values, **changes})  # type: ignore[typeddict-item]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return Supernet(get_space("elastic-mini"), seed=3)


@pytest.fixture
def path(tmp_path: Path, supernet: Supernet) -> Path:
    path = tmp_path / "checkpoints" / "supernet.safetensors"
    save_checkpoint(path, supernet, MOMENTS, metadata())
    return path


def test_weights_moments_and_metadata_come_back_to_the_bit(path: Path, supernet: Supernet) -> None:
    loaded, found = load_supernet(path)
    assert found == metadata()
    assert not loaded.training
    expected = supernet.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    moments = read_checkpoint(path).optimizer
    assert moments.keys() == MOMENTS.keys()
    assert all(torch.equal(moments[name], tensor) for name, tensor in MOMENTS.items())
    assert moments["a.weight/step"].shape == ()


def test_a_checkpoint_is_one_file_with_json_in_its_header(path: Path) -> None:
    assert [file.name for file in path.parent.iterdir()] == ["supernet.safetensors"]
    size = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + size])
    assert json.loads(header["__metadata__"]["nas.supernet"])["space"] == "elastic-mini"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found nothing, expected a file"):
        read_checkpoint(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="found a folder, expected a file"):
        load_supernet(tmp_path)


@pytest.mark.parametrize("kept", [0.0, 0.00001, 0.01, 0.5, 0.9999])
def test_a_truncated_file(path: Path, kept: float) -> None:
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents))])
    with pytest.raises(CheckpointError, match="bytes that are no whole safetensors file") as caught:
        load_supernet(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint == "take an intact copy of the file, or train the supernet again"


def test_a_flipped_bit(path: Path) -> None:
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 4
    path.write_bytes(contents)
    with pytest.raises(CheckpointError, match=r"its tensors are damaged: found checksum \w{8}, expected \w{8}"):
        load_supernet(path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    foreign = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, foreign)
    with pytest.raises(CheckpointError, match=r"found a safetensors file without `nas\.supernet` in its header"):
        load_supernet(foreign)
    pickled = tmp_path / "model.pt"
    torch.save({"weight": torch.zeros(3)}, pickled)
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        load_supernet(pickled)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("not json", "its header is damaged"),
        ("[1, 2]", "its header is damaged"),
        ('{"schema": 1}', "its header is damaged: `space`: found nothing"),
        ('{"schema": 99, "crc32": 0}', "found format 99, expected 1"),
        ('{"schema": 1, "crc32": 0}', "its header is damaged: `space`: found nothing"),
    ],
)
def test_headers_that_cannot_be_used(path: Path, header: str, message: str) -> None:
    save_file(load_file(path), path, metadata={"nas.supernet": header})
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "elastic-mimi"}, "unknown search space: `elastic-mimi`"),
        ({"version": 2}, "found space `elastic-mini` version 2 with 10 classes, expected `elastic-mini` version 1"),
        ({"classes": 7}, r"tensor `network\.head\.\S+`: found \(10.*, expected \(7"),
    ],
)
def test_checkpoints_of_other_spaces(tmp_path: Path, supernet: Supernet, changes: dict[str, Any], message: str) -> None:
    save_checkpoint(tmp_path / "a", supernet, {}, metadata(**changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_supernet(tmp_path / "a")
    assert caught.value.hint


def test_weights_of_another_number_of_classes_are_not_restored(path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"with 10 classes, expected .* with 3"):
        restore_weights(read_checkpoint(path), Supernet(get_space("elastic-mini", 3)))


@pytest.fixture
def full_disk() -> Iterator[None]:
    """Files of more than 64 KiB cannot be written, as when the disk is full."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_leaves_nothing_behind_where_nothing_was(tmp_path: Path, supernet: Supernet) -> None:
    with pytest.raises(CheckpointError, match="cannot be written: File too large"):
        save_checkpoint(tmp_path / "supernet.safetensors", supernet, {}, metadata())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_last_checkpoint(path: Path, supernet: Supernet, request: pytest.FixtureRequest) -> None:
    before = path.read_bytes()
    request.getfixturevalue("full_disk")
    with pytest.raises(CheckpointError, match="File too large; the last one is intact") as caught:
        save_checkpoint(path, supernet, {}, metadata(step=5))
    assert caught.value.hint == "free some space or choose another folder, then resume"
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
