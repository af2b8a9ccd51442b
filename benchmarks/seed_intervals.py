"""Means over a few seeds, as the benchmarks print them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


def with_interval(values: Sequence[float] | np.ndarray, digits: int = 1, *, signed: bool = False) -> str:
    """The mean of independent values and half the width of its 95 % interval by Student's t: ``66.4 ± 6.2``.

    A bootstrap of three values would only ever say how far these lie apart.
    """
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    text = f"{mean:+.{digits}f}" if signed else f"{mean:.{digits}f}"
    if count < 2:
        return text
    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.std(values, ddof=1) / math.sqrt(count))
    return f"{text} ± {half:.{digits}f}"
