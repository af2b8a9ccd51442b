"""`nas data check`: all that is to be said of a folder of images, without training."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from nas.cli.main import app
from supernets.data.sources import load_data
from supernets.data.survey import survey


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root, pixels = tmp_path / "pictures", np.random.default_rng(0)
    for part, count in (("Train", 40), ("valid", 10), ("test", 10)):
        for name, share in (("turn left", 1), ("turn right", 2), ("stop", 20)):
            (root / part / name).mkdir(parents=True)
            for number in range(max(2, count // share)):
                image = Image.fromarray(pixels.integers(0, 256, (12, 16, 3), dtype=np.uint8))
                image.save(root / part / name / f"{number:02}.png")
    Image.new("RGBA", (16, 12)).save(root / "Train/turn left/00.png")
    (root / "valid/turn left/00.png").write_bytes(b"")
    (root / "test/turn left/00.png").write_bytes((root / "Train/turn left/01.png").read_bytes())
    (root / "Train/turn right/00.png").write_bytes((root / "Train/turn left/02.png").read_bytes())
    (root / "notes").mkdir()
    Image.new("L", (9, 9)).save(root / "notes/1.png")
    return root


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "check", *arguments])


def check(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run(str(folder), "--json", "-q").stdout)
    return document


def test_a_folder_is_described(folder: Path) -> None:
    found = check(folder)
    images = load_data(str(folder), 16, workers=0)
    assert found["parts"] == images.splits == {"train": 62, "search": 16, "test": 17}
    assert found["classes"]["turn left"] == {"train": 40, "search": 9, "test": 10}
    assert found["skipped"] == [{"name": "valid/turn left/00.png", "why": "empty files", "detail": ""}]
    assert found["changed"] == {"with transparency, composed onto white": 1}
    assert (found["modes"], found["formats"]) == ({"RGB": 94, "RGBA": 1}, {"PNG": 95})
    assert found["columns"] == {"least": 16, "median": 16, "most": 16}
    assert found["copies"]["groups"] == 2
    assert found["copies"]["across_parts"] == [["Train/turn left/01.png", "test/turn left/00.png"]]
    assert found["copies"]["across_classes"] == [["Train/turn left/02.png", "Train/turn right/00.png"]]
    assert (found["hflip"], found["problem"], found["images"]) == (0.0, None, 96)
    remarks = "\n".join(found["remarks"])
    for text in ("folder `notes` is called like no part", "each other's mirror image", "20 times as many"):
        assert text in remarks
    assert set(found["remarks"]) <= set(images.remarks)


def test_the_same_in_tables(folder: Path) -> None:
    result = run(str(folder), "-q")
    assert result.exit_code == 0
    for text in ("turn left", "files that would be skipped: 1", "valid/turn left/00.png", "empty files", "0% of the"):
        assert text in result.stdout
    for text in ("warning: folder `notes`", "warning: images that lie in several parts", "in several classes"):
        assert text in result.stderr


def test_a_folder_that_nothing_can_be_trained_on_is_described_all_the_same(folder: Path) -> None:
    for path in (folder / "test/turn left").iterdir():
        path.write_bytes(b"<html>")
    result = run(str(folder), "--json", "-q")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["parts"], len(found["skipped"])) == (2, None, 11)
    assert "class `turn left` has 10 images in the test part, and none can be used" in found["problem"]
    assert found["problem"] in result.stderr
    assert run(str(folder), "-q").exit_code == 2


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    result = run(str(tmp_path / name))
    assert result.exit_code == 2
    assert "there is no such folder" in result.stderr


def test_names_that_are_no_text(folder: Path) -> None:
    odd = os.fsencode(folder) + b"/Train/stop/\xff.png"
    with open(odd, "wb"):
        pass
    result = run(str(folder), "-q")
    assert "\\udcff.png" in result.stdout
    assert check(folder)["skipped"][0]["name"] == "Train/stop/\udcff.png"


def test_progress_counts_files_to_the_last(folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    survey(str(folder), lambda done, total: seen.append((done, total)))
    assert seen == [(done, 96) for done in range(1, 97)]
