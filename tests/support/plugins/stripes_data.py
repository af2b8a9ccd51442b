"""Images of stripes across or down, ``stripes:WIDTH``."""

from __future__ import annotations

import numpy as np
import torch

from supernets.data.image_data import Division, ImageData, LoadOptions, digest_of, divide
from supernets.data.memory_images import AffineRanges, MemoryData

CLASSES = ("across", "down")


class Stripes:
    expected = "`stripes:WIDTH`"

    def understands(self, text: str) -> bool:
        return text.startswith("stripes:")

    def load(self, text: str, options: LoadOptions) -> ImageData:
        width = int(text.removeprefix("stripes:"))
        labels = np.arange(40) % 2
        names = [str(number) for number in range(40)]
        parts = divide(names, labels, CLASSES, options.seed, {"search": 0.25, "test": 0.25}, text)
        stripes = (torch.arange(options.image_side) // width % 2 * 255).to(torch.uint8)
        across = stripes.expand(options.image_side, options.image_side)
        images = torch.stack([across.T if label else across for label in labels])[:, None]
        division = Division(parts, digest_of(parts, names, labels.tolist()))
        ranges = AffineRanges(0, 0, 0, 0)
        return MemoryData(text, CLASSES, division, images, torch.from_numpy(labels), options, ranges)


SOURCE = Stripes()
