"""A pretrained model made one for other classes before anything is searched inside it: a classifier that is fitted.

Legend of tensor suffixes: M images, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.evaluation.evaluators import calibration_batches
from nas.events import Notice, Progress

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.features import Features
    from supernets.probing import FittedClassifier
    from supernets.supernet import Supernet

MOST_IMAGES = 20_000
"""Training images that a classifier is fitted to at most."""
NEIGHBOURS_OF_DINO, TEMPERATURE_OF_DINO = (10, 20, 100, 200), 0.07
CONFUSED = 0.1
"""Accuracy that another naming of its classes would add to a classifier, above which these are doubted."""
BETTER = 0.02
"""Accuracy by which a fitted classifier must be ahead of one that came with the weights, to take its place."""


@dataclass(frozen=True)
class Worth:
    """What a model's features are worth on the search part of images, before any training.

    Attributes:
        neighbours: Accuracy in [0, 1] of the 20 nearest training images' majority; None where a class has one image.
        weighted: Accuracy of 10, 20, 100 and 200 nearest by number, weighted as DINO does; empty there.
        probe: Accuracy of a classifier that is fitted to the training images.
        decay: Weight decay that was chosen for it.
        images: Training images it was fitted to.
        seconds: What all of it took.
    """

    neighbours: float | None
    weighted: Mapping[int, float]
    probe: float
    decay: float
    images: int
    seconds: float


def measure_worth(
    supernet: Supernet, images: ImageData, seed: int, seconds: float | None = None
) -> tuple[Worth, FittedClassifier]:
    """Judge the features of the whole network of a timm supernet by neighbours and by a fitted classifier.

    Args:
        supernet: The weights.
        images: Images at its side; the training part is learned from, the search part judged on.
        seed: Decides which training images choose the weight decay.
        seconds: Time for features that are not in the cache; fewer images are learned from where it is short.

    Raises:
        SupernetError: The network has no dense classifier.
        DataError: The features are not finite.
    """
    from supernets.errors import DataError
    from supernets.features import FeatureReader
    from supernets.probing import fit_classifier

    started = time.monotonic()
    reader = FeatureReader(supernet)
    known = reader.read(images, "train", MOST_IMAGES, seconds)
    judged = reader.read(images, "search", MOST_IMAGES)
    fitted = fit_classifier(known.values_ND, known.labels_N, images.classes, seed)
    try:
        neighbours, weighted = _neighbours(known, judged)
    except DataError:
        neighbours, weighted = None, {}
    probe = fitted.accuracy(judged.values_ND, judged.labels_N)
    count, spent = len(known.labels_N), time.monotonic() - started
    return Worth(neighbours, weighted, probe, fitted.decay, count, spent), fitted


def adapt_classifier(
    supernet: Supernet, images: ImageData, tells_classes: bool, seed: int, seconds: float | None, progress: Progress
) -> dict[str, Any]:
    """Give a timm supernet a classifier for the images' classes, where it has none or one that knows others.

    Args:
        supernet: Changed in place.
        images: Images at its side.
        tells_classes: Whether its classifier is of as many classes.
        seed: Decides which training images choose the weight decay.
        seconds: Time for features.
        progress: Told what was found.

    Returns:
        ``head`` (``given``, ``fitted`` or ``random``), and where features were judged ``knn``, ``probe`` and what was
        needed for them.
    """
    from supernets.batch_norm import reestimate_batch_norm
    from supernets.errors import SupernetError
    from supernets.features import put_classifier

    given = None
    if tells_classes:
        given, reordered = _right(supernet, images)
        if reordered - given <= CONFUSED and given * images.classes > 1:
            return {"head": "given"}
    reestimate_batch_norm(supernet.network, calibration_batches(images, seed))  # as whoever judges it does
    try:
        worth, fitted = measure_worth(supernet, images, seed, seconds)
        if given is None or worth.probe > given + BETTER:
            put_classifier(supernet, fitted)
    except SupernetError as error:
        progress(Notice(f"no classifier is fitted: {error}"))
        return {"head": "random" if given is None else "given"}
    facts = {"probe": worth.probe, "knn": worth.neighbours, "fitted_to": worth.images, "decay": worth.decay}
    if given is None:
        return {"head": "fitted", **facts}
    if worth.probe <= given + BETTER:
        return {"head": "given", **facts}
    progress(
        Notice(
            f"the classifier that came with the weights is right on {given:.1%} of the search part, one that was fitted"
            f" to the training images on {worth.probe:.1%} (its classes may stand in another order, or be others); the"
            " fitted one takes its place"
        )
    )
    return {"head": "fitted", **facts}


def _neighbours(known: Features, judged: Features) -> tuple[float, dict[int, float]]:
    from supernets.probing import nearest_neighbour_accuracy

    pairs = (known.values_ND, known.labels_N, judged.values_ND, judged.labels_N)
    weighted = {
        k: nearest_neighbour_accuracy(*pairs, neighbours=k, temperature=TEMPERATURE_OF_DINO) for k in NEIGHBOURS_OF_DINO
    }
    return nearest_neighbour_accuracy(*pairs), weighted


def _right(supernet: Supernet, images: ImageData) -> tuple[float, float]:
    """Accuracy on the search part, and what it would be if the classes were named otherwise."""
    import torch
    from scipy.optimize import linear_sum_assignment

    from supernets.features import BATCH

    confusion_KK = torch.zeros(images.classes, images.classes, dtype=torch.int64)
    with torch.inference_mode():
        for x_BCHW, labels_B in images.batches("search", BATCH, MOST_IMAGES):
            found_B = supernet.network(x_BCHW.to(supernet.device)).argmax(dim=1).cpu()
            confusion_KK += torch.bincount(labels_B * images.classes + found_B, minlength=images.classes**2).reshape(
                confusion_KK.shape
            )
    rows, columns = linear_sum_assignment(confusion_KK.numpy(), maximize=True)
    total = max(int(confusion_KK.sum()), 1)
    return int(confusion_KK.trace()) / total, int(confusion_KK[rows, columns].sum()) / total
