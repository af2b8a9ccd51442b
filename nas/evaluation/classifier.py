"""A classifier that is fitted to a network's features on the training part of images."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nas.networks.precision import fast_precision

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData
    from supernets.features import FeatureReader, Features
    from supernets.probing import FittedClassifier
    from supernets.supernet import Supernet

MOST_IMAGES = 20_000
"""Training images that a classifier is fitted to at most."""
MOST_VIEWS, VIEWED_IMAGES = 2, 5_000
"""Augmented views of each image that are learned from as well, while they are together no more than so many images."""


def fit_to_images(
    reader: FeatureReader, images: ImageData, seed: int, seconds: float | None = None
) -> tuple[Features, FittedClassifier]:
    """Features of the training part, and the classifier that is fitted to them and to augmented views.

    Args:
        reader: Reads the features.
        images: Images at the network's side.
        seed: Decides which training images choose the weight decay.
        seconds: Time for features that are not in the cache; fewer images are learned from where it is short.

    Raises:
        DataError: The features are not finite.
    """
    from supernets.probing import fit_classifier

    started = time.monotonic()
    known = reader.read(images, "train", MOST_IMAGES, seconds)
    left = None if seconds is None else max(seconds - (time.monotonic() - started), 0.0)
    views = reader.read_views(images, min(MOST_VIEWS, VIEWED_IMAGES // len(known.labels_N)), seed, left)
    pair = (views.values_ND, views.labels_N)
    return known, fit_classifier(known.values_ND, known.labels_N, images.classes, seed, pair)


def refit_classifier(network: Supernet, images: ImageData, seed: int) -> None:
    """Fit the classifier of one network to its own features, and keep it where it is better on the search part.

    Args:
        network: One network of a timm model, changed in place.
        images: Images at the side of its space.
        seed: Decides which training images choose the weight decay.

    Raises:
        SupernetError: The network has no dense classifier.
        DataError: The features are not finite.
    """
    from supernets.features import FeatureReader, classifier_of, put_classifier

    reader = FeatureReader(network, fast_precision(network.space, network.device))
    judged = reader.read(images, "search", MOST_IMAGES)
    _, fitted = fit_to_images(reader, images, seed)
    before, after = (found.accuracy(judged.values_ND, judged.labels_N) for found in (classifier_of(network), fitted))
    if after > before:
        put_classifier(network, fitted)
