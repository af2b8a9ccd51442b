"""Data sources that others bring: by an entry point of their package, or registered in a program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from supernets.data import sources
from supernets.data.digits import DigitsSource
from supernets.data.image_data import ImageData, LoadOptions, NamedSource
from supernets.data.sources import data_sources, load_data, register_data_source
from supernets.errors import DataError

MODULE = """
import numpy as np
import torch
from supernets.data.image_data import Division, digest_of, divide
from supernets.data.memory_images import AffineRanges, MemoryData

class Stripes:
    expected = "`stripes:WIDTH`"

    def understands(self, text):
        return text.startswith("stripes:")

    def load(self, text, options):
        width = int(text.removeprefix("stripes:"))
        labels = np.arange(40) % 2
        names = [str(number) for number in range(40)]
        parts = divide(names, labels, ("across", "down"), options.seed, {"search": 0.25, "test": 0.25}, text)
        stripes = (torch.arange(options.image_side) // width % 2 * 255).to(torch.uint8)
        across = stripes.expand(options.image_side, options.image_side)
        images = torch.stack([across.T if label else across for label in labels])[:, None]
        division = Division(parts, digest_of(parts, names, labels.tolist()))
        ranges = AffineRanges(0, 0, 0, 0)
        return MemoryData(text, ("across", "down"), division, images, torch.from_numpy(labels), options, ranges)

SOURCE = Stripes()
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a data source, installed as far as Python can tell."""
    (tmp_path / "striped_images.py").write_text(MODULE)
    metadata = tmp_path / "striped_images-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: striped-images\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[nas.data_sources]\nstripes = striped_images:SOURCE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    sources._plugins.cache_clear()
    yield
    sources._plugins.cache_clear()


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
    monkeypatch.setattr(sources, "_named", dict(sources._named))
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
