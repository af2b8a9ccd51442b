"""Images of two labels, with a table of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_spots(folder: Path, count: int = 60, side: int = 32) -> Path:
    """A light spot above, a light spot below; both, one or none."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, eighth = np.random.default_rng(0), side // 8
    lines = ["file,above,below"]
    for number in range(count):
        has = generator.random(2) < 0.5
        pixels = generator.integers(0, 60, (side, side), dtype=np.uint8)
        pixels[eighth : 3 * eighth, eighth:-eighth] += np.uint8(150 * has[0])
        pixels[5 * eighth : 7 * eighth, eighth:-eighth] += np.uint8(150 * has[1])
        Image.fromarray(pixels).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{int(has[0])},{int(has[1])}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder
