"""Networks inside a trained model that its weights suggest, for a controller to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import RunError
from nas.objectives.bounds import Bounds
from nas.training.pretrained import RANDOM, PretrainedStart, calibration_of
from search_spaces import Genotypes, SearchSpace, population_cost

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData

EACH = 8
"""Networks by each criterion."""


def suggest(own: PretrainedStart, images: ImageData, bounds: Bounds, seed: int) -> Genotypes | None:
    """Networks within the bounds by every criterion of `supernets.allocation`, ``[n, c]``, the largest first.

    Those of a criterion are spread evenly over MACs, from the smallest to the largest within the bounds.

    Args:
        own: The model.
        images: Images at its side.
        bounds: What has to hold.
        seed: Seed of the choice of calibration images.

    Returns:
        None where the weights are random.
    """
    from supernets.allocation import suggested_networks

    if own.facts["weights"] == RANDOM:
        return None
    found = suggested_networks(own.supernet, calibration_of(own.supernet, images, own.facts["head"], seed)[1])
    rows: Genotypes = np.concatenate(
        [bounds.space.encode([]), *(_spread(bounds, networks) for networks in found.values())]
    )
    return rows[np.argsort(-population_cost(bounds.space, rows).macs, kind="stable")]


def recorded_suggestions(recorded: Mapping[str, Any], space: SearchSpace, folder: Path) -> Genotypes | None:
    """What a run that is resumed was suggested when it began; None where it was nothing.

    Raises:
        RunError: It is of another space.
    """
    if not recorded.get("suggested"):
        return None
    rows = recorded["suggested"]
    sizes = space.cardinalities.tolist()
    if not all(len(row) == len(sizes) and all(0 <= i < n for i, n in zip(row, sizes, strict=True)) for row in rows):
        raise RunError(f"`suggested` in `{folder / 'settings.json'}` is not of space `{space.name}`")
    return space.repair(np.array(rows, dtype=np.int8))


def _spread(bounds: Bounds, networks: Genotypes) -> Genotypes:
    """Up to `EACH` of those within the bounds, evenly over MACs."""
    within = networks[bounds.excess(bounds.predict(networks)) <= 0]
    if not len(within):
        return within
    macs_n = population_cost(bounds.space, within).macs
    wanted = np.linspace(macs_n.max(), macs_n.min(), EACH)
    nearest: Genotypes = within[np.unique(np.abs(macs_n[:, None] - wanted).argmin(axis=0))]
    return nearest
