"""What the weights of a trained model tell a controller before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas.errors import RunError
from nas.events import StageStarted, ignore
from nas.objectives.bounds import Bounds
from nas.objectives.problem import Floats
from nas.searching.resolution import EXCHANGE
from nas.searching.settings import SearchSettings
from nas.training.pretrained import RANDOM, PretrainedStart, calibration_of
from search_spaces import Genotypes, SearchSpace, population_cost

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.sensitivity import Make
    from supernets.supernet import Supernet
    from supernets.training.settings import Precision

EACH = 8
"""Networks by each criterion."""
MEASURED_IMAGES = 64
"""Images of the search part that the loss of each choice is measured on."""


def learn_of_weights(
    own: PretrainedStart, images: ImageData, bounds: Bounds, settings: SearchSettings, make: Make | None
) -> dict[str, Any]:
    """What the weights of a model tell of the networks inside it, for the controller and the record.

    Args:
        own: The model.
        images: Images at its side.
        bounds: What has to hold.
        settings: Settings of the search.
        make: Maker of its networks where they are compensated; None takes them as they are cut.

    Returns:
        ``sensitivities`` or ``suggested``, whichever the controller begins with; nothing where the weights are random.
    """
    if own.facts["weights"] == RANDOM:
        return {}
    if settings.controller != EXCHANGE:
        return {"suggested": suggest(own, images, bounds, settings.seed).tolist()}
    make = make or own.supernet.extract
    (settings.progress or ignore)(StageStarted("measure what each choice costs"))
    precision = own.precision(settings.options)
    return {"sensitivities": measure_sensitivities(own.supernet, make, images, settings.uses_labels, precision)}


def suggest(own: PretrainedStart, images: ImageData, bounds: Bounds, seed: int) -> Genotypes:
    """Networks within the bounds by every criterion of `supernets.allocation`, ``[n, c]``, the largest first.

    Those of a criterion are spread evenly over MACs, from the smallest to the largest within the bounds.

    Args:
        own: The model.
        images: Images at its side.
        bounds: What has to hold.
        seed: Seed of the choice of calibration images.
    """
    from supernets.allocation import suggested_networks

    found = suggested_networks(own.supernet, calibration_of(own.supernet, images, own.facts["head"], seed)[1])
    rows: Genotypes = np.concatenate(
        [bounds.space.encode([]), *(_spread(bounds, networks) for networks in found.values())]
    )
    return rows[np.argsort(-population_cost(bounds.space, rows).macs, kind="stable")]


def measure_sensitivities(
    supernet: Supernet, make: Make, images: ImageData, uses_labels: bool, precision: Precision = "fp32"
) -> list[list[float]]:
    """What every choice costs by itself, as `supernets.sensitivity.step_losses` measures it on the search part.

    Args:
        supernet: Trained weights.
        make: Maker of its networks.
        images: Images at its side.
        uses_labels: Whether the loss is that of labels; else that of outputs beside the whole network's.
        precision: What products are computed in.
    """
    from supernets.calibration import Calibration
    from supernets.sensitivity import step_losses

    images_BCHW, labels_B = next(iter(images.batches("search", MEASURED_IMAGES, MEASURED_IMAGES)))
    calibration = (
        Calibration.of(supernet, images_BCHW, labels_B)
        if uses_labels
        else Calibration.of_outputs(supernet, images_BCHW)
    )
    return step_losses(supernet, make, replace(calibration, precision=precision))


def recorded_sensitivities(recorded: Mapping[str, Any], space: SearchSpace, folder: Path) -> list[Floats] | None:
    """What a run that is resumed had measured when it began; None where that was nothing.

    Raises:
        RunError: It is of another space.
    """
    found = recorded.get("sensitivities")
    if not found:
        return None
    if [len(losses) for losses in found] != space.cardinalities.tolist():
        raise RunError(f"`sensitivities` in `{folder / 'settings.json'}` are not of space `{space.name}`")
    return [np.array(losses, dtype=np.float64) for losses in found]


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
