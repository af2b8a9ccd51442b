"""Shards of WebDataset: classes, parts and images as they lie in tar files, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from nas.cli.main import app
from supernets.data.sources import load_data
from supernets.data.survey import survey
from supernets.errors import DataError


def write_shard(path: Path, count: int, first: int = 0, label_ending: str = "cls", mode: str = "w") -> None:
    """Images of two classes, dark and bright; the entries of one image stand beside each other."""
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for index in range(first, first + count):
            file, label = io.BytesIO(), index % 2
            Image.fromarray(np.full((20, 20, 3), 40 + 150 * label, dtype=np.uint8)).save(file, "PNG")
            text = (
                json.dumps({"label": label, "width": 20}).encode() if label_ending == "json" else f"{label}\n".encode()
            )
            for ending, content in (("png", file.getvalue()), (label_ending, text)):
                member = tarfile.TarInfo(f"a/{index:04}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("prefix", ["", "wds/"])
def test_shards_are_divided_and_read_where_they_lie(prefix: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", 20)
    write_shard(tmp_path / "train-1.tar", 20, 20, "json")
    write_shard(tmp_path / "val-0.tar", 6, 40)
    (tmp_path / "classnames.txt").write_text("dark\nbright\n")
    images = load_data(f"{prefix}{tmp_path}", 16, workers=0)
    assert images.class_names == ("dark", "bright")
    assert {part: len(found) for part, found in images.division.parts.items()} == {"train": 34, "search": 6, "test": 6}
    for part in ("train", "search", "test"):
        for x_BCHW, labels_B in images.batches(part, 8):
            assert ((x_BCHW.mean(dim=(1, 2, 3)) > 0) == (labels_B == 1)).all()


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found no `\.tar` file"):
        load_data(f"wds/{tmp_path}", 16)
    write_shard(tmp_path / "0.tar", 20, mode="w:gz")
    with pytest.raises(DataError, match=r"shard `.*0\.tar` cannot be read as a tar file") as caught:
        load_data(str(tmp_path), 16)
    assert "not compressed" in caught.value.hint
    write_shard(tmp_path / "0.tar", 20)
    content = (tmp_path / "0.tar").read_bytes()
    for damaged in (content.replace(b"0002.cls", b"0002.txt", 1), content[: len(content) // 2]):
        (tmp_path / "0.tar").write_bytes(damaged)
        with pytest.raises(DataError, match=r"shard `.*0\.tar` cannot be read as a tar file"):
            load_data(str(tmp_path), 16)
    write_shard(tmp_path / "0.tar", 20, label_ending="txt")
    with pytest.raises(DataError, match="found no image with a class in 1 shards"):
        load_data(str(tmp_path), 16)
    write_shard(tmp_path / "0.tar", 1, 2, label_ending="txt")
    write_shard(tmp_path / "1.tar", 19)
    images = load_data(str(tmp_path), 16)
    assert sum(map(len, images.division.parts.values())) == 19
    assert any("1 entries of shards without an image or a class" in remark for remark in images.remarks)


def test_a_survey_says_what_shards_hold(tmp_path: Path) -> None:
    write_shard(tmp_path / "train-0.tar", 40)
    write_shard(tmp_path / "val-0.tar", 6, 40)
    found = survey(f"wds/{tmp_path}")
    assert found["shards"] == {"train-0.tar": 40, "val-0.tar": 6}
    assert found["parts"] == load_data(str(tmp_path), 16, workers=0).splits
    assert {name: sum(counts.values()) for name, counts in found["classes"].items()} == {"0": 23, "1": 23}
    assert (found["images"], found["formats"], found["columns"]["most"]) == (46, {"PNG": 46}, 20)
    assert (found["copies"]["groups"], found["skipped"], found["problem"]) == (2, [], None)
    content = (tmp_path / "val-0.tar").read_bytes()
    (tmp_path / "val-0.tar").write_bytes(content.replace(b"\x89PNG", b"nope", 1))
    damaged = survey(str(tmp_path))
    assert damaged["parts"] is None
    assert "1 of 46 images cannot be read" in damaged["problem"]
    shown = CliRunner().invoke(app, ["data", "check", f"wds/{tmp_path}", "-q"])
    assert shown.exit_code == 2
    assert "46 images in 2 shards" in shown.output
    assert "write the shards again without them" in shown.output


def test_a_folder_of_classes_with_an_archive_beside_them_stays_one(tmp_path: Path) -> None:
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / name).mkdir()
        for index in range(5):
            Image.new("RGB", (20, 20), (label * 100, index, 0)).save(tmp_path / name / f"{index}.png")
    write_shard(tmp_path / "photos.tar", 8)
    assert load_data(str(tmp_path), 16).class_names == ("cats", "dogs")
