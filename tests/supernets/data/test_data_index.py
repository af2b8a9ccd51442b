"""Finding the image files of a folder: what is found, what is remembered, and when it is looked at again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supernets.data import image_index
from supernets.data.image_index import Names, index_images
from supernets.errors import DataError

FILES = ("cat/2.png", "cat/10.JPEG", "cat/young/1.webp", "dog/1.png", "dog b/3.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for size, name in enumerate(FILES):
        write(root / name, size)
    write(root / "cat" / "notes.txt", 1)
    write(root / "cat" / "._2.png", 1)
    write(root / ".cache" / "1.png", 1)
    return root


@pytest.fixture
def remembering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders of any size are remembered, also those that changed just now."""
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(image_index, "REMEMBERED_FROM", 1)
    monkeypatch.setattr(image_index, "SETTLED_SECONDS", -60.0)
    return tmp_path / "cache" / "images"


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def contents(root: Path) -> dict[str, int]:
    index = index_images(root)
    return dict(zip(index.names, index.sizes.tolist(), strict=True))


def forbid_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    def listed(*_: object) -> None:
        raise AssertionError("the folder was listed again")

    monkeypatch.setattr(image_index, "_listed", listed)


def test_names_are_a_sequence_of_strings() -> None:
    texts = ["cat/1.png", "", "Käse/ß.png", os.fsdecode(b"odd/\xff\n.png")]
    names = Names.of(texts)
    assert list(names) == texts == [names[i] for i in range(4)] == names[:]
    assert names[-1] == texts[-1]
    assert list(Names.joined([names, Names.of([]), names.under("train")])) == [*texts, *(f"train/{t}" for t in texts)]
    with pytest.raises(IndexError):
        names[4]


def test_images_are_found_class_by_class(folder: Path) -> None:
    index = index_images(folder)
    assert index.classes == ("cat", "dog", "dog b")
    assert index.counts == (3, 1, 1)
    assert list(index.names) == ["cat/10.JPEG", "cat/2.png", "cat/young/1.webp", "dog/1.png", "dog b/3.png"]
    assert index.labels.tolist() == [0, 0, 0, 1, 2]
    assert contents(folder) == {name: size for size, name in enumerate(FILES)}


def test_a_class_may_be_a_link(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "5.png", 9)
    (folder / "zebra").symlink_to(tmp_path / "elsewhere")
    assert contents(folder)["zebra/5.png"] == 9


def test_a_small_folder_is_looked_at_every_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    before = contents(folder)
    write(folder / "cat/2.png", 50)
    assert contents(folder) == {**before, "cat/2.png": 50}
    assert not (tmp_path / "cache").exists()


def test_a_large_folder_is_remembered(folder: Path, remembering: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = index_images(folder)
    assert len(list(remembering.iterdir())) == 1
    forbid_listing(monkeypatch)
    after = index_images(folder)
    assert (after.classes, after.counts) == (before.classes, before.counts)
    assert list(after.names) == list(before.names)
    assert after.sizes.tolist() == before.sizes.tolist()
    assert after.labels.tolist() == before.labels.tolist()


@pytest.mark.parametrize("change", ["add", "add deep", "remove", "rename", "add a class", "overwrite"])
def test_a_change_of_a_remembered_folder_is_noticed(folder: Path, remembering: Path, change: str) -> None:
    before = contents(folder)
    os.utime(folder, ns=(0, 0))  # times of a coarse clock must not hide a change
    for path in (folder / "cat", folder / "cat" / "young", folder / "dog"):
        os.utime(path, ns=(0, 0))
    contents(folder)
    match change:
        case "add":
            write(folder / "cat/3.png", 7)
            expected = {**before, "cat/3.png": 7}
        case "add deep":
            write(folder / "cat/young/3.png", 7)
            expected = {**before, "cat/young/3.png": 7}
        case "remove":
            (folder / "dog/1.png").unlink()
            expected = {name: size for name, size in before.items() if name != "dog/1.png"}
        case "rename":
            (folder / "cat/2.png").rename(folder / "cat/4.png")
            expected = {("cat/4.png" if name == "cat/2.png" else name): size for name, size in before.items()}
        case "add a class":
            write(folder / "eel/1.png", 7)
            expected = {**before, "eel/1.png": 7}
        case _:
            write(folder / "cat/2.png", 70)
            expected = {**before, "cat/2.png": 70}
    assert contents(folder) == expected


def test_a_folder_that_changed_just_now_is_not_remembered(
    folder: Path, remembering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_index, "SETTLED_SECONDS", 60.0)
    index_images(folder)
    assert not remembering.exists()


def test_what_was_remembered_and_is_damaged_is_found_again(folder: Path, remembering: Path) -> None:
    before = contents(folder)
    (file,) = remembering.iterdir()
    whole = file.read_bytes()
    for damage in (b"", whole[:200], whole[:400] + b"\x00\x01" + whole[402:], b"not an archive"):
        file.write_bytes(damage)
        assert contents(folder) == before
        assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_hindrance(
    folder: Path, remembering: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remembering.parent.write_text("a file where the cache folder should be")
    assert len(contents(folder)) == len(FILES)


def test_a_folder_that_cannot_be_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(image_index.os, "scandir", denied)
    with pytest.raises(DataError, match=r"data `.*images`: cannot be listed: Permission denied"):
        index_images(folder)
