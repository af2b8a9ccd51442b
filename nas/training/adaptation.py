"""A pretrained model made one for other classes before anything is searched inside it: a classifier that is fitted.

Legend of tensor suffixes: M images, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas.evaluation.accuracy import accuracy_of, guessed
from nas.evaluation.classifier import MOST_IMAGES, fit_to_images
from nas.evaluation.evaluators import calibration_batches
from nas.evaluation.segmentation import MOST_LEARNED, maps_of, segmented
from nas.events import Notice, Progress, ignore
from nas.networks.precision import fast_precision
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, MEAN_IOU
from search_spaces import get_space
from search_spaces.timm_models import PREFIX

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.data.mask_folder import MaskedData
    from supernets.features import Features
    from supernets.probing import FittedClassifier
    from supernets.supernet import Supernet
    from supernets.timm_models.loading import Original

NEIGHBOURS_OF_DINO, TEMPERATURE_OF_DINO = (10, 20, 100, 200), 0.07
CONFUSED = 0.1
"""Accuracy that another naming of its classes would add to a classifier, above which these are doubted."""
BETTER = 0.02
"""Accuracy by which a fitted classifier must be ahead of one that came with the weights, to take its place."""


@dataclass(frozen=True)
class Worth:
    """What a model's features are worth on the search part of images, before any training.

    Attributes:
        neighbours: Accuracy in [0, 1] of the 20 nearest training images' majority; None where a class has one image, or
            images have several labels.
        weighted: Accuracy of 10, 20, 100 and 200 nearest by number, weighted as DINO does; empty there.
        probe: Accuracy of a classifier that is fitted to the training images, or its mean average precision.
        decay: Weight decay that was chosen for it.
        images: Training images it was fitted to.
        judged: Images of the search part that were looked at.
        seconds: What all of it took.
        figure: What all of these are; mean average precision where images have several labels, mean intersection over
            union of patches where they have masks.
        by_class: The last by class; empty for others.
    """

    neighbours: float | None
    weighted: Mapping[int, float]
    probe: float
    decay: float
    images: int
    judged: int
    seconds: float
    figure: str = ACCURACY
    by_class: Mapping[str, float | None] = field(default_factory=dict)


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

    started = time.monotonic()
    reader = FeatureReader(supernet, fast_precision(supernet.space, supernet.device))
    judged = reader.read(images, "search", MOST_IMAGES)
    known, fitted = fit_to_images(reader, images, seed, seconds)
    try:
        neighbours, weighted = (None, {}) if images.has_several_labels else _neighbours(known, judged)
    except DataError:
        neighbours, weighted = None, {}
    probe = fitted.accuracy(judged.values_ND, judged.labels_N)
    counts, spent = (len(known.labels_N), len(judged.labels_N)), time.monotonic() - started
    figure = AVERAGE_PRECISION if images.has_several_labels else ACCURACY
    return Worth(neighbours, weighted, probe, fitted.decay, *counts, spent, figure), fitted


def load_fitting(
    model: str, weights: str | None, images: ImageData, progress: Progress
) -> tuple[Original, dict[str, Any]]:
    """A model with its weights, made one for images normalised as these are; and what is known of it.

    Args:
        model: Name of a timm model, with arguments where wanted.
        weights: ``pretrained``, a file or folder; None draws them at random.
        images: At the model's side.
        progress: Told what there is to say of the weights.

    Raises:
        UnknownNameError, TimmModelError: There is no such model, or it cannot be made elastic.
        CheckpointError: The weights cannot be had, or are of another model.
        SupernetError: The weights expect other colours, and cannot be changed for these.
    """
    from supernets.timm_models.colours import adapt_colours
    from supernets.timm_models.loading import load_original

    original = load_original(model, weights, images.classes, class_names=images.class_names)
    for note in original.notes:
        progress(Notice(note))
    if weights is not None:
        expected = (original.mean, original.std)
        adapt_colours(original.supernet, original.first_convolution, expected, (images.mean, images.std))
    return original, {"name": model, "weights": weights, "license": original.license}


def worth_of(model: str, weights: str, data: str, progress: Progress = ignore) -> Worth:
    """Judge what a pretrained model's features are worth on images.

    Args:
        model: Name of a timm model, with arguments where wanted.
        weights: ``pretrained``, a file or folder.
        data: Source of the images, as `supernets.data.sources.load_data` takes it.
        progress: Told what there is to say of the weights.

    Raises:
        DataError: The images cannot be used.
        UnknownNameError, TimmModelError, SupernetError: As `load_fitting`.
    """
    from supernets.batch_norm import reestimate_batch_norm
    from supernets.data.mask_folder import MaskedData
    from supernets.data.sources import load_data

    space = get_space(f"{PREFIX}:{model.removeprefix(f'{PREFIX}:')}")
    images = load_data(data, space.image_side)
    original, _ = load_fitting(model.removeprefix(f"{PREFIX}:"), weights, images, progress)
    if isinstance(images, MaskedData):
        return _segmented(original.supernet, images)
    reestimate_batch_norm(original.supernet.network, calibration_batches(images, 0))
    return measure_worth(original.supernet, images, 0)[0]


def _segmented(supernet: Supernet, images: MaskedData) -> Worth:
    """What the patches of the whole network are worth on images with masks."""
    started = time.monotonic()
    maps = maps_of(supernet.network.eval(), lambda x_BCHW: x_BCHW.to(supernet.device), images.image_side)
    found = segmented(maps, images, "search")
    learned, spent = min(MOST_LEARNED, images.splits["train"]), time.monotonic() - started
    by_class = dict(zip(found.class_names, found.unions, strict=True))
    return Worth(None, {}, found.value, 0.0, learned, found.images, spent, MEAN_IOU, by_class)


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
    if tells_classes and images.has_several_labels:
        given = accuracy_of(lambda x_BCHW: supernet.network(x_BCHW).cpu(), images, "search", supernet.device)
        if given > guessed(images, "search"):
            return {"head": "given"}
    elif tells_classes:
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
    figure = worth.figure.replace("_", " ")
    progress(
        Notice(
            f"the classifier that came with the weights: {figure} {given:.1%} on the search part; one that was fitted"
            f" to the training images: {worth.probe:.1%} (its classes may stand in another order, or be others); the"
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
