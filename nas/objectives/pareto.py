"""Pareto fronts, ranks, hypervolume and the knee, as pure functions of arrays.

Legend: n points, k costs, f points of a front. Costs are minimised; negate what is to be maximised. A row with a NaN is
no point at all: it is never on a front, dominates nothing and adds no volume.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_CHUNK_ELEMENTS = 1 << 18


def pareto_mask(costs_nk: Costs) -> Mask:
    """Which points ``[n]`` no other point dominates.

    A point dominates another when it is nowhere worse and somewhere better, so equal points do not dominate each
    other and all copies of a front point are on the front.
    """
    mask = np.zeros(len(costs_nk), dtype=np.bool_)
    left_n = np.flatnonzero(~np.isnan(costs_nk).any(axis=1))
    # In lexicographic order no point is dominated by a later one, so the first of those left is on the front.
    left_n = left_n[np.lexsort(costs_nk[left_n].T[::-1])]
    if costs_nk.shape[1] == 2:
        mask[left_n[_are_steps(costs_nk[left_n])]] = True
        return mask
    columns_kn = np.ascontiguousarray(costs_nk[left_n].T)  # NumPy is slow along short last axes
    while len(left_n):
        point_k1 = columns_kn[:, :1]
        is_equal_n = (columns_kn == point_k1).all(axis=0)
        mask[left_n[is_equal_n]] = True
        is_left_n = (columns_kn < point_k1).any(axis=0)
        left_n, columns_kn = left_n[is_left_n], columns_kn[:, is_left_n]
    return mask


def _are_steps(rows_n2: Costs) -> Mask:
    """Which points in lexicographic order are on the front of two costs: those with a second cost below all before."""
    lowest_n = np.minimum.accumulate(rows_n2[:, 1])
    is_step_n = np.append(True, rows_n2[1:, 1] < lowest_n[:-1])
    is_first_n = np.append(True, (rows_n2[1:] != rows_n2[:-1]).any(axis=1))
    first_n = np.maximum.accumulate(np.where(is_first_n, np.arange(len(is_first_n)), 0))
    steps_n: Mask = is_step_n[first_n]  # equal points are on the front together
    return steps_n[: len(rows_n2)]


def dominated_by(costs_nk: Costs, front_fk: Costs) -> Mask:
    """Which points ``[n]`` some point of ``front_fk`` dominates."""
    dominated_n = np.zeros(len(costs_nk), dtype=np.bool_)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, len(front_fk)))
    for start in range(0, len(costs_nk), chunk):
        rows_nk = costs_nk[start : start + chunk]
        is_no_better_nf = np.ones((len(rows_nk), len(front_fk)), dtype=np.bool_)
        is_worse_nf = np.zeros_like(is_no_better_nf)
        for cost_n, cost_f in zip(rows_nk.T, front_fk.T, strict=True):
            is_no_better_nf &= cost_f <= cost_n[:, None]
            is_worse_nf |= cost_f < cost_n[:, None]
        dominated_n[start : start + chunk] = (is_no_better_nf & is_worse_nf).any(axis=1)
    return dominated_n


def pareto_ranks(costs_nk: Costs) -> npt.NDArray[np.int64]:
    """The front that each point ``[n]`` is on once those before it are taken away, from 0; rows with NaN come last."""
    ranks_n = np.full(len(costs_nk), -1, dtype=np.int64)
    left_n, rank = np.flatnonzero(~np.isnan(costs_nk).any(axis=1)), 0
    while len(left_n):
        is_front_n = pareto_mask(costs_nk[left_n])
        ranks_n[left_n[is_front_n]] = rank
        left_n, rank = left_n[~is_front_n], rank + 1
    ranks_n[ranks_n < 0] = rank
    return ranks_n


def crowding_distance(costs_nk: Costs) -> npt.NDArray[np.float64]:
    """How far each point ``[n]`` of one front is from its neighbours, the ends infinitely, as in NSGA-II."""
    count = len(costs_nk)
    distance_n = np.zeros(count)
    for cost_n in costs_nk.T:
        order_n = np.argsort(cost_n, kind="stable")
        sorted_n = cost_n[order_n]
        span = sorted_n[-1] - sorted_n[0] if count else 0.0
        if span > 0:
            distance_n[order_n[1:-1]] += (sorted_n[2:] - sorted_n[:-2]) / span
            distance_n[order_n[[0, -1]]] = np.inf
    return distance_n


def hypervolume(costs_nk: Costs, reference_k: npt.ArrayLike) -> float:
    """The volume that points dominate within ``reference_k``: a length, an area, a volume and so on.

    More than two costs are cut into slabs along the last one, each of which is a hypervolume of one cost less: fine for
    the hundreds of points on the fronts of three or four costs.

    Args:
        costs_nk: Points; those not better than the reference in every cost add nothing.
        reference_k: The corner that bounds the volume from above.

    Returns:
        The volume, in the product of all costs' units; infinite where a cost is minus infinity.
    """
    reference = np.asarray(reference_k, dtype=np.float64)
    inside_nk = costs_nk[(costs_nk < reference).all(axis=1)]
    return _volume(inside_nk[pareto_mask(inside_nk)], reference)


def _volume(front_fk: Costs, reference_k: Costs) -> float:
    if not len(front_fk):
        return 0.0
    if front_fk.shape[1] == 1:
        return float(reference_k[0] - front_fk.min())
    if front_fk.shape[1] == 2:
        front_f2 = np.unique(front_fk, axis=0)  # ascending in the first cost, hence descending in the second
        heights_f = np.append(reference_k[1], front_f2[:-1, 1]) - front_f2[:, 1]
        return float(((reference_k[0] - front_f2[:, 0]) * heights_f).sum())
    front_fk = front_fk[np.argsort(front_fk[:, -1], kind="stable")]
    depths_f = np.append(front_fk[1:, -1], reference_k[-1]) - front_fk[:, -1]
    total = 0.0
    slab_fk = front_fk[:0, :-1]
    for point_k, depth in zip(front_fk[:, :-1], depths_f.tolist(), strict=True):
        slab_fk = np.concatenate([slab_fk, point_k[None]])
        slab_fk = slab_fk[pareto_mask(slab_fk)]
        if depth > 0:
            total += _volume(slab_fk, reference_k[:-1]) * depth
    return total


def knee(costs_nk: Costs) -> int:
    """The index of the point of a front where giving up one cost stops paying for the others.

    Costs are scaled to the front's range, and the knee is the point with the lowest sum. For two costs that is the one
    farthest below the straight line between the front's two ends (Das, "On characterizing the knee of the Pareto
    curve", 1999); where no point lies below that line the end with the lower second cost is returned.

    Raises:
        ValueError: There are no points, or one is not finite.
    """
    if not len(costs_nk) or not np.isfinite(costs_nk).all():
        raise ValueError(f"knee of {len(costs_nk)} points: expected at least one, all of them finite")
    low, high = costs_nk.min(axis=0), costs_nk.max(axis=0)
    scaled_nk = (costs_nk - low) / np.where(high > low, high - low, 1.0)
    below_n = 1.0 - scaled_nk.sum(axis=1)
    best = int(np.argmax(below_n))
    if costs_nk.shape[1] != 2 or below_n[best] > 1e-9:
        return best
    return int(np.lexsort((costs_nk[:, 0], costs_nk[:, 1]))[0])
