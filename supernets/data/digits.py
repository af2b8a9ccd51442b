"""The data source ``digits``: 1,797 scans of handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch

from supernets.data.augmentation import LIGHT, Augmentation
from supernets.data.image_data import (
    SEARCH_FRACTION,
    TEST_FRACTION,
    Division,
    LoadOptions,
    Part,
    digest_of,
    divide,
)
from supernets.data.memory_images import AffineRanges, MemoryData

DIGITS = "digits"


class DigitsData(MemoryData):
    """1,797 scans of handwritten digits, 8 x 8 pixels, enlarged; embedded in scikit-learn, so no network is needed.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
    (its test part), https://doi.org/10.24432/C50P49.
    """

    def __init__(
        self, image_side: int, seed: int = 0, augmentation: Augmentation = LIGHT, ranges: AffineRanges | None = None
    ) -> None:
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        scans = np.rint(digits.images * (255 / digits.images.max())).astype(np.uint8)
        size = (image_side, image_side)
        enlarged = [np.asarray(Image.fromarray(scan).resize(size, Image.Resampling.BICUBIC)) for scan in scans]
        labels = digits.target.astype(np.int64)
        names = [f"{number:04d}" for number in range(len(scans))]
        class_names = tuple(str(name) for name in digits.target_names)
        fractions: dict[Part, float] = {"search": SEARCH_FRACTION, "test": TEST_FRACTION}
        parts = divide(names, labels, class_names, seed, fractions, DIGITS)
        super().__init__(
            DIGITS,
            image_side,
            class_names,
            Division(parts, digest_of(parts, names, [int(scan.sum()) for scan in scans])),
            torch.from_numpy(np.stack(enlarged)[:, None]),
            torch.from_numpy(labels),
            augmentation,
            ranges or AffineRanges(),
        )


class DigitsSource:
    """The source that goes by ``digits``, a `supernets.data.image_data.DataSource`."""

    expected = f"`{DIGITS}`"

    def understands(self, text: str) -> bool:
        """Whether the text is the name."""
        return text == DIGITS

    def load(self, text: str, options: LoadOptions) -> DigitsData:
        """The digits."""
        return DigitsData(options.image_side, options.seed, options.augmentation)
