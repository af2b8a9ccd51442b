"""What every test file needs of its process, and of the processes that it starts."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Threads that spin while they wait for each other lose a lot on a busy machine, and small networks gain nothing.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell starts what it puts into the background with Ctrl-C ignored, and its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start run this checkout, whatever is installed, and find `tests.support`.
os.environ["PYTHONPATH"] = os.pathsep.join(
    path for path in (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")) if path
)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes of noise, a darker and a brighter one: 30 images to train on."""
    import numpy as np
    from PIL import Image

    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 90)):
        (root / name).mkdir()
        for number in range(24):
            pixels = rng.integers(level, level + 160, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def data(images: Path) -> ImageData:
    """The images of that folder, 32 pixels a side."""
    from supernets.data.sources import load_data

    return load_data(str(images), 32, workers=0)
