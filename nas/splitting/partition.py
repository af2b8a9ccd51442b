"""Classes divided between devices: those that are confused with each other stay together.

Source: spectral clustering after Ng, Jordan and Weiss, "On Spectral Clustering", NIPS 2001; the sizes of groups are
fixed by how fast the devices are, so classes are assigned to centres by the Hungarian method.

Legend of array suffixes: K classes, G groups, D coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def sizes_by_speed(ms: Sequence[float], classes: int) -> list[int]:
    """How many classes each device gets: in proportion to its speed, one at least.

    Args:
        ms: Latency of one network on each device.
        classes: Number of classes, no fewer than devices.
    """
    speeds = 1 / np.asarray(ms, dtype=np.float64)
    wanted = 1 + (classes - len(ms)) * speeds / speeds.sum()
    sizes = np.floor(wanted).astype(int)
    for place in np.argsort(sizes - wanted, kind="stable")[: classes - int(sizes.sum())]:
        sizes[place] += 1
    return [int(size) for size in sizes]


def partition(confusion_KK: Floats, sizes: Sequence[int], seed: int) -> list[list[int]]:
    """Groups of classes of given sizes, each class in exactly one.

    Args:
        confusion_KK: How much of an image of one class (row) is taken for another one (column).
        sizes: Sizes of the groups, together the number of classes.
        seed: Seed of the first centres.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    if len(sizes) == 1:
        return [list(range(sizes[0]))]
    affinity_KK = (confusion_KK + confusion_KK.T) / 2
    np.fill_diagonal(affinity_KK, 0.0)
    affinity_KK += max(float(affinity_KK.max()), 1e-12) * 1e-3  # connected, whatever was never confused
    scale_K = affinity_KK.sum(axis=1) ** -0.5
    _, vectors_KK = np.linalg.eigh(scale_K[:, None] * affinity_KK * scale_K)
    places_KD = vectors_KK[:, -len(sizes) :]
    places_KD = places_KD / np.linalg.norm(places_KD, axis=1, keepdims=True).clip(1e-12)
    found = KMeans(len(sizes), n_init=10, random_state=seed).fit(places_KD)
    centres_GD = np.empty_like(found.cluster_centers_)
    by_size = np.argsort(-np.bincount(found.labels_, minlength=len(sizes)), kind="stable")
    centres_GD[np.argsort(-np.asarray(sizes), kind="stable")] = found.cluster_centers_[by_size]
    distances_KG = ((places_KD[:, None] - centres_GD) ** 2).sum(axis=2)
    groups = np.repeat(np.arange(len(sizes)), sizes)  # a place for each class, of the group that it is in
    classes, taken = linear_sum_assignment(distances_KG[:, groups])
    return [[int(k) for k in classes[groups[taken] == group]] for group in range(len(sizes))]
