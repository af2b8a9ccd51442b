"""Data sources that others bring: by an entry point of their package, or registered in a program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from supernets.data import sources
from supernets.data.digits import DigitsSource
from supernets.data.image_data import ImageData, LoadOptions, NamedSource
from supernets.data.sources import data_sources, load_data, register_data_source
from supernets.errors import DataError
from tests.support.plugins.stripes_data import SOURCE


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data source of another package."""
    monkeypatch.setattr(sources.SOURCES, "_registered", {})
    register_data_source("stripes", SOURCE)


@pytest.mark.usefixtures("package")
def test_images_of_another_package_are_loaded_by_their_text() -> None:
    data = load_data("stripes:4", 8)
    assert data.describe()["source"] == "stripes:4"
    assert data.splits == {"train": 20, "search": 10, "test": 10}
    images, labels = next(data.batches("test", 10))
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = image[0, 0], image[0, :, 0]
        (striped, plain) = (column, row) if label else (row, column)
        assert torch.equal(striped[:4], striped[:1].expand(4))
        assert striped[0] < striped[4]
        assert len(plain.unique()) == 1


@pytest.mark.usefixtures("package")
def test_texts_of_another_package_stand_in_the_hint() -> None:
    with pytest.raises(DataError) as caught:
        load_data("nowhere", 8)
    assert "`glyphs`, `stripes:WIDTH`, a folder of images, or a dataset of timm" in caught.value.hint


class Renamed(NamedSource):
    """The digits under another name."""

    name = "renamed"

    def load(self, text: str, options: LoadOptions) -> ImageData:
        return DigitsSource().load("digits", options)


def test_a_source_that_a_program_registers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources.SOURCES, "_registered", {})
    register_data_source("renamed", Renamed())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "renamed").mkdir()
    assert load_data("renamed", 8).classes == 10
    assert list(data_sources()) == ["digits", "glyphs", "renamed", "folder", "timm"]
    with pytest.raises(DataError) as caught:
        load_data("rename", 8)
    assert caught.value.hint == "did you mean `renamed`?"
    with pytest.raises(ValueError, match="data source `timm` is registered already"):
        register_data_source("timm", Renamed())
