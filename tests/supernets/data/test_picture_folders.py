"""Folders as they come: parts in any spelling, files that cannot be used, and what is said of all that."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from supernets.data import image_files, picture_check
from supernets.data.folder_layout import split_of
from supernets.data.image_data import ImageData
from supernets.data.picture_check import check_pictures, copies
from supernets.data.sources import load_data
from supernets.errors import DataError

RNG = np.random.default_rng(0)
PAIR = {"cat": 10, "dog": 10}


def write(path: Path, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def write_classes(root: Path, counts: dict[str, int], ending: str = "png") -> None:
    for name, count in counts.items():
        for number in range(count):
            write(root / name / f"{number:03}.{ending}")


def load(root: Path) -> ImageData:
    return load_data(str(root), 16, workers=0)


def remarks(root: Path) -> str:
    return "\n".join(load(root).remarks)


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Train", "TRAIN", "training", "training_set", "train-set", "trainset", "Train Images",
                   "train_data", "01_train", "train2017", "trainval"]),
        ("val", ["val", "Val", "valid", "validation", "Validation_Set", "valset", "dev", "eval", "val2017"]),
        ("test", ["test", "Test", "testing", "test_set", "TEST SET", "test-images"]),
        (None, ["trains", "trainer", "valley", "tested", "contest", "train station", "set", "images", "data", "7",
                "attest", "evaluations of cats", ""]),
    ],
)  # fmt: skip
def test_spellings_of_parts(split: str | None, names: list[str]) -> None:
    assert [split_of(name) for name in names] == [split] * len(names)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("Train", "Val", "Test"), {"train": 20, "search": 20, "test": 20}),
        (("train", "valid", "test"), {"train": 20, "search": 20, "test": 20}),
        (("Training", "Testing"), {"train": 16, "search": 4, "test": 20}),
        (("training_set", "test_set"), {"train": 16, "search": 4, "test": 20}),
        (("TRAIN", "VALIDATION"), {"train": 16, "search": 4, "test": 20}),
        (("train", "val", "validation", "test"), {"train": 20, "search": 40, "test": 20}),
        (("train", "Train", "test"), {"train": 34, "search": 6, "test": 20}),
        (("images/train", "images/val", "images/test"), {"train": 20, "search": 20, "test": 20}),
        (("cats and dogs/Train", "cats and dogs/Dev"), {"train": 16, "search": 4, "test": 20}),
    ],
)
def test_parts_in_any_spelling(tmp_path: Path, folders: tuple[str, ...], sizes: dict[str, int]) -> None:
    for folder in folders:
        write_classes(tmp_path / folder, PAIR)
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert data.splits == sizes


def test_folders_that_are_taken_together_are_named(tmp_path: Path) -> None:
    for folder in ("train", "val", "validation", "test"):
        write_classes(tmp_path / folder, PAIR)
    assert "the folders `val` and `validation` are taken together as one part" in remarks(tmp_path)


def test_one_folder_under_two_names_is_taken_once(tmp_path: Path) -> None:
    for folder in ("train", "val", "test"):
        write_classes(tmp_path / folder, PAIR)
    (tmp_path / "validation").symlink_to(tmp_path / "val")
    (tmp_path / "held out").symlink_to(tmp_path / "val")
    data = load(tmp_path)
    assert (data.splits, data.remarks) == ({"train": 20, "search": 20, "test": 20}, ())


def test_folders_beside_the_parts_are_named(tmp_path: Path) -> None:
    for folder in ("train", "Test", "unlabelled", "extra"):
        write_classes(tmp_path / folder, PAIR)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "1.txt").write_text("no image")
    for number in range(3):
        write(tmp_path / "val" / f"{number}.png")
    found = remarks(tmp_path)
    assert "folder `unlabelled` is called like no part: its 20 images are left out" in found
    assert "folder `extra` is called like no part: its 20 images are left out" in found
    assert "folder `val` holds images without class folders: its 3 images are left out" in found
    assert "notes" not in found


def test_a_class_that_is_called_like_a_part(tmp_path: Path) -> None:
    write_classes(tmp_path, {"test": 10, "exam": 10, "train": 10})
    data = load(tmp_path)
    assert data.class_names == ("exam", "test", "train")
    assert [remark for remark in data.remarks if "`test` is taken for a class" in remark]
    assert [remark for remark in data.remarks if "`train` is taken for a class" in remark]


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("val/cat", "val/dog", "test/cat", "test/dog"), "expected one to train on, called `train`"),
        (("train", "test"), "expected a folder of images per class in each"),
    ],
)
def test_parts_that_nothing_can_be_trained_on(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    write_classes(tmp_path, dict.fromkeys(folders, 6))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_classes_that_differ_between_parts(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"cat": 9, "dog": 9, "eel": 9})
    write_classes(tmp_path / "test", {"cat": 2, "dog": 2})
    (tmp_path / "test" / "fox").mkdir()
    assert "no image of `eel` is in `test`" in remarks(tmp_path)
    write_classes(tmp_path / "test", {"Eel": 2, "gnu": 1})
    with pytest.raises(DataError, match=r"classes `Eel`, `gnu` are not among those to train on, `cat`") as caught:
        load(tmp_path)
    assert caught.value.hint == "did you mean `eel`?"


def test_accents_may_be_written_in_either_way(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", {"caf\u00e9": 9, "th\u00e9": 9})
    write_classes(tmp_path / "test", {"cafe\u0301": 2, "the\u0301": 3})
    data = load(tmp_path)
    assert data.class_names == ("caf\u00e9", "th\u00e9")
    assert next(data.batches("test", 9))[1].tolist() == [0, 0, 1, 1, 1]


def test_what_systems_leave_behind_is_passed_over(tmp_path: Path) -> None:
    write_classes(tmp_path, PAIR)
    for name in ("__MACOSX/cat/._000.png", ".ipynb_checkpoints/1.png", "cat/.hidden.png", "cat/@eaDir/1.png"):
        write(tmp_path / "x.png")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x.png").rename(tmp_path / name)
    for name in (".DS_Store", "Thumbs.db", "cat/Thumbs.db", "dog/desktop.ini", "dog/.DS_Store"):
        (tmp_path / name).write_bytes(b"x")
    data = load(tmp_path)
    assert (data.class_names, sum(data.splits.values()), data.remarks) == (("cat", "dog"), 20, ())


def test_files_that_are_no_images_by_their_names_are_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, PAIR)
    for name in ("cat/1.xml", "cat/2.xml", "dog/photo", "readme.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    found = remarks(tmp_path)
    assert "5 files are no images by their names and left out: 2 .xml" in found
    assert "1 without an ending" in found
    assert "1 broken links" in found
    assert "1 .txt beside the folders" in found


def test_links_and_endings_of_any_kind_are_followed(tmp_path: Path) -> None:
    top = tmp_path / "images"
    write_classes(top, {"cat": 10, "dog": 6})
    write_classes(tmp_path / "elsewhere", {"more": 3})
    write(tmp_path / "one.png")
    (top / "dog" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (top / "dog" / "LINK.PNG").symlink_to(tmp_path / "one.png")
    (top / "dog" / "circle").symlink_to(top)
    for number, ending in enumerate(("JPG", "Jpeg", "TIFF", "GIF", "jfif")):
        Image.new("RGB", (8, 8)).save(top / "dog" / f"{number}.{ending}", "JPEG")
    data = load(top)
    assert sum(data.splits.values()) == 10 + 6 + 3 + 1 + 5
    assert "1 broken links and links in circles" in "\n".join(data.remarks)


def test_what_cannot_be_used_is_found_at_once_in_all_parts_and_named(tmp_path: Path) -> None:
    for folder in ("train", "val", "test"):
        write_classes(tmp_path / folder, PAIR)
    whole = (tmp_path / "train/cat/000.png").read_bytes()
    (tmp_path / "train/cat/000.png").write_bytes(whole[:150])
    (tmp_path / "val/dog/001.png").write_bytes(b"")
    (tmp_path / "test/dog/002.png").write_bytes(b"<html>")
    (tmp_path / "train/dog/003.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    body = zlib.compress(b"")
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    (tmp_path / "train/dog/004.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(text)) + name + text + struct.pack(">I", zlib.crc32(name + text))
            for name, text in chunks
        )
    )
    data = load(tmp_path)
    assert data.splits == {"train": 18, "search": 19, "test": 19}
    (remark,) = data.remarks
    assert remark.startswith("5 of 61 images are skipped: ")
    for text in (
        "1 truncated (`train/cat/000.png`)",
        "1 empty files (`val/dog/001.png`)",
        "1 no image files (`test/dog/002.png`)",
        "1 HEIC files, which `pip install pillow-heif` lets be read (`train/dog/003.heic`)",
        "1 of too many pixels (`train/dog/004.png`)",
    ):
        assert text in remark
    assert sum(len(labels) for part in ("train", "search", "test") for _, labels in data.batches(part, 7)) == 56


def test_many_of_a_kind_are_counted_and_some_named(tmp_path: Path) -> None:
    write_classes(tmp_path, {"cat": 20, "dog": 20})
    for number in range(7):
        (tmp_path / "cat" / f"{number:03}.png").write_bytes(b"")
    assert "7 empty files (`cat/000.png`, `cat/001.png`, `cat/002.png`, `cat/003.png`, `cat/004.png` and 2 more)" in (
        remarks(tmp_path)
    )


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({"cat": 10, "dog": 1}, r"11 of 20 images cannot be used: 11 empty files"),
        ({"cat": 10}, r"class `cat` has \d images in the \w+ part, and none can be used; 10 empty files"),
    ],
)
def test_too_much_that_cannot_be_used(tmp_path: Path, damaged: dict[str, int], message: str) -> None:
    write_classes(tmp_path, PAIR)
    for name, count in damaged.items():
        for number in range(count):
            (tmp_path / name / f"{number:03}.png").write_bytes(b"")
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_what_is_done_to_images_is_counted(tmp_path: Path) -> None:
    write_classes(tmp_path, PAIR)
    exif = Image.Exif()
    exif[0x0112] = 3
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / "cat" / f"{number:03}.png", exif=exif)
    Image.new("RGBA", (8, 8)).save(tmp_path / "dog" / "000.png")
    assert load(tmp_path).remarks == (
        "of 20 images 3 turned as their EXIF data say; 1 with transparency, composed onto white",
    )


def test_remarks_are_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_classes(tmp_path, {"cat": 10, "dog": 200})
    for is_quiet in (True, False, False):
        load_data(str(tmp_path), 16, workers=0, is_quiet=is_quiet)
    (record,) = caplog.records
    assert "class `dog` has 130 training images and class `cat` 6: 22 times as many" in record.getMessage()


def test_training_images_of_a_large_folder_are_not_decoded_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "train", {"cat": 20, "dog": 20})
    write_classes(tmp_path / "test", PAIR)
    monkeypatch.setattr(image_files, "CHECKED_WHOLE", 30)
    for name in ("train/cat/000.png", "test/cat/000.png"):
        (tmp_path / name).write_bytes(b"")
    data = load(tmp_path)
    assert set(data.division.skipped) - {"train/cat/000.png"} == {"test/cat/000.png"}
    assert data.splits["test"] == 19


def test_files_that_were_found_whole_are_not_decoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    write_classes(root, PAIR)
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(picture_check, "REMEMBERED_SECONDS", -1.0)
    decoded: list[Path] = []
    before = picture_check.read_picture
    monkeypatch.setattr(picture_check, "read_picture", lambda path, **o: decoded.append(path) or before(path, **o))
    names = [f"{name}/{number:03}.png" for name in PAIR for number in range(10)]
    (root / names[3]).write_bytes(b"")
    first = check_pictures(root, names)
    assert len(decoded) == 20
    decoded.clear()
    assert check_pictures(root, names).facts == first.facts
    assert decoded == [root / names[3]]
    write(root / names[3])
    write(root / names[5], side=9)
    os.utime(root / names[6], ns=(1, 1))
    decoded.clear()
    again = check_pictures(root, names)
    assert sorted(decoded) == [root / names[number] for number in (3, 5, 6)]
    assert (len(again.facts), again.facts[names[5]].columns, again.refusals) == (20, 9, {})
    for damage in (b"", b"[]", b'{"version": 1, "files": {"a": 3}}', b'{"version": 1}', b"\xff\xfe"):
        (file,) = (tmp_path / "cache" / "checked").iterdir()
        file.write_bytes(damage)
        assert len(check_pictures(root, names).facts) == 20


def test_copies_are_found_by_their_contents(tmp_path: Path) -> None:
    for name, contents in (("a", b"one"), ("b", b"two"), ("c", b"one"), ("d", b"three"), ("e", b""), ("f", b"")):
        (tmp_path / name).write_bytes(contents)
    assert copies(tmp_path, "abcdef") == [["a", "c"]]
