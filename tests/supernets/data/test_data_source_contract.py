"""Every registered data source that needs no download, against the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.testing import DataSourceContract
from supernets.data.image_data import DataSource
from supernets.data.sources import data_sources


class TestDigits(DataSourceContract):
    text = "digits"

    def make_source(self) -> DataSource:
        return data_sources()["digits"]


class TestGlyphs(DataSourceContract):
    text = "glyphs"

    def make_source(self) -> DataSource:
        return data_sources()["glyphs"]


class TestFolder(DataSourceContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        generator = np.random.default_rng(0)
        for number in range(60):
            path = tmp_path / ("cat", "dog")[number % 2] / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
        self.text = str(tmp_path)

    def make_source(self) -> DataSource:
        return data_sources()["folder"]
