"""Pareto fronts, hypervolume and the knee, as pure functions of arrays.

Legend: n points, k costs. Costs are minimised; negate what is to be maximised. A row with a NaN is no point at all: it
is never on a front, dominates nothing and adds no volume.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]


def pareto_mask(costs_nk: Costs) -> npt.NDArray[np.bool_]:
    """Which points ``[n]`` no other point dominates.

    A point dominates another when it is nowhere worse and somewhere better, so equal points do not dominate each
    other and all copies of a front point are on the front.
    """
    mask = np.zeros(len(costs_nk), dtype=bool)
    valid = np.flatnonzero(~np.isnan(costs_nk).any(axis=1))
    # In lexicographic order no point is dominated by a later one, so comparing with the front so far is enough.
    order = valid[np.lexsort(costs_nk[valid].T[::-1])]
    front: list[int] = []
    for index in order:
        others_fk, point_k = costs_nk[front], costs_nk[index]
        dominated = (others_fk <= point_k).all(axis=1) & (others_fk < point_k).any(axis=1)
        if not dominated.any():
            front.append(int(index))
    mask[front] = True
    return mask


def hypervolume(costs_n2: Costs, reference_2: npt.ArrayLike) -> float:
    """The area that two costs dominate within ``reference_2``.

    Args:
        costs_n2: Points; those not better than the reference in both costs add nothing.
        reference_2: The corner that bounds the area from above.

    Returns:
        The area, in the product of both costs' units; infinite where a cost is minus infinity.
    """
    reference = np.asarray(reference_2, dtype=np.float64)
    inside_n2 = costs_n2[(costs_n2 < reference).all(axis=1)]
    front_n2 = inside_n2[np.lexsort(inside_n2.T[::-1])]
    area, height = 0.0, float(reference[1])
    for first, second in front_n2:
        if second < height:
            area += (float(reference[0]) - float(first)) * (height - float(second))
            height = float(second)
    return area


def knee(costs_n2: Costs) -> int:
    """The index of the point of a front where giving up one cost stops paying for the other.

    Both costs are scaled to the front's range, and the knee is the point farthest below the straight line between the
    front's two ends (Das, "On characterizing the knee of the Pareto curve", 1999). Where no point lies below that line
    the end with the lower second cost is returned.

    Raises:
        ValueError: There are no points, or one is not finite.
    """
    if not len(costs_n2) or not np.isfinite(costs_n2).all():
        raise ValueError(f"knee of {len(costs_n2)} points: expected at least one, all of them finite")
    low, high = costs_n2.min(axis=0), costs_n2.max(axis=0)
    scaled_n2 = (costs_n2 - low) / np.where(high > low, high - low, 1.0)
    below_n = 1.0 - scaled_n2.sum(axis=1)
    best = int(np.argmax(below_n))
    if below_n[best] > 1e-9:
        return best
    return int(np.lexsort((costs_n2[:, 0], costs_n2[:, 1]))[0])
