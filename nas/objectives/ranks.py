"""Ranks over a population, which make numbers of different kinds comparable. Legend: n networks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def dense_ranks(values_n: npt.ArrayLike, *, larger_is_better: bool) -> npt.NDArray[np.int64]:
    """Rank 0 for the best, ``[n]``; equal values share a rank and the next distinct one is one higher.

    Values that are not finite share the last rank.
    """
    values = np.asarray(values_n, dtype=np.float64)
    keys = np.where(np.isfinite(values), -values if larger_is_better else values, np.inf)
    return np.asarray(np.unique(keys, return_inverse=True)[1], dtype=np.int64)


def rank_sums(ntk_n: npt.ArrayLike, length_distortion_n: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """As-ViT's combination of its two metrics, ``[n]``: the sum of both dense ranks; the smallest is the best."""
    return dense_ranks(ntk_n, larger_is_better=False) + dense_ranks(length_distortion_n, larger_is_better=True)
