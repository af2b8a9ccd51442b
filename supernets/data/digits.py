"""The data source ``digits``: 1,797 scans of handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from supernets.data.image_data import FRACTIONS, Division, LoadOptions, NamedSource, digest_of, divide
from supernets.data.memory_images import AffineRanges, MemoryData


class DigitsSource(NamedSource):
    """1,797 scans of handwritten digits, 8 x 8 pixels, enlarged; embedded in scikit-learn, so no network is needed.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
    (its test part), https://doi.org/10.24432/C50P49.

    Args:
        ranges: How far training images are moved.
    """

    name = "digits"

    def __init__(self, ranges: AffineRanges | None = None) -> None:
        self._ranges = ranges or AffineRanges()

    def load(self, text: str, options: LoadOptions) -> MemoryData:
        """The digits."""
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        scans = np.rint(digits.images * (255 / digits.images.max())).astype(np.uint8)
        size = (options.image_side, options.image_side)
        enlarged = [np.asarray(Image.fromarray(scan).resize(size, Image.Resampling.BICUBIC)) for scan in scans]
        labels = digits.target.astype(np.int64)
        names = [f"{number:04d}" for number in range(len(scans))]
        class_names = tuple(str(name) for name in digits.target_names)
        parts = divide(names, labels, class_names, options.seed, FRACTIONS, text)
        division = Division(parts, digest_of(parts, names, [int(scan.sum()) for scan in scans]))
        images = torch.from_numpy(np.stack(enlarged)[:, None])
        return MemoryData(text, class_names, division, images, torch.from_numpy(labels), options, self._ranges)
