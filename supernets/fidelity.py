"""How much of what a whole network sees in images a smaller one still sees; no labels are needed.

The whole network's features are told by their principal components, which take the place of a classifier: a network's
outputs are its features there. Fidelity is the mean cosine of a network's outputs and the whole one's, after a ridge
regression from its features that is fitted to some images and judged on others.

Related: Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv 1905.00414.

Legend of tensor suffixes: N images, D features, K components.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.errors import DataError
from supernets.least_squares import ridge_change
from supernets.probing import FittedClassifier

MOST_COMPONENTS = 192
IMAGES_PER_COMPONENT, LEAST_IMAGES = 4, 32
ALPHA = 1e-1
"""Damping of the regression, which has few images."""


def components_for(images: int, features: int) -> int:
    """How many components are told by so many images of so many features."""
    return min(MOST_COMPONENTS, features, images // IMAGES_PER_COMPONENT)


def principal_components(features_ND: Tensor, count: int) -> FittedClassifier:
    """The linear layer that gives the first components of features, less their mean.

    Args:
        features_ND: Features of images.
        count: Number of components.

    Raises:
        DataError: The features are not finite, or all images have the same.
    """
    x_ND = features_ND.detach().cpu().double()
    mean_D = x_ND.mean(dim=0)
    if not torch.isfinite(x_ND).all() or not float((x_ND - mean_D).abs().max()) > 0:
        raise DataError("components of features: found features that are not finite, or the same for all images")
    _, _, components_DD = torch.linalg.svd(x_ND - mean_D, full_matrices=False)
    weight_KD = components_DD[:count]
    # The sign of a component means nothing; without a rule it would depend on the machine.
    weight_KD = weight_KD * weight_KD.gather(1, weight_KD.abs().argmax(dim=1, keepdim=True)).sign()
    return FittedClassifier(weight_KD.float(), -(weight_KD @ mean_D).float(), 0.0, 0.0)


def refitted(layer: FittedClassifier, features_ND: Tensor, wanted_NK: Tensor, alpha: float = ALPHA) -> FittedClassifier:
    """A last layer with what has to be added to it, so that it gives what is wanted.

    Args:
        layer: The layer as it is.
        features_ND: Its inputs.
        wanted_NK: What the whole network gives.
        alpha: Damping.

    Raises:
        DegenerateError: The inputs are not finite.
    """
    change_KD, change_K = ridge_change(features_ND, wanted_NK - layer.outputs(features_ND), alpha)
    return replace(layer, weight_KD=layer.weight_KD + change_KD.float(), bias_K=layer.bias_K + change_K.float())


def fidelity(features_ND: Tensor, outputs_NK: Tensor, wanted_NK: Tensor, alpha: float = ALPHA) -> float:
    """Mean cosine in [-1, 1] of a network's outputs and those wanted, its last layer fitted anew.

    Every other image is fitted to, by what has to be added to the last layer; the others are judged.

    Args:
        features_ND: Inputs of the network's last layer.
        outputs_NK: Its outputs.
        wanted_NK: What the whole network gives.
        alpha: Damping.

    Raises:
        DegenerateError: What the network gives is not finite.
    """
    x_ND, error_NK = features_ND.double(), wanted_NK.double() - outputs_NK.double()
    change_KD, change_K = ridge_change(x_ND[::2], error_NK[::2], alpha)
    found_NK = outputs_NK[1::2].double() + x_ND[1::2] @ change_KD.T + change_K
    return float(F.cosine_similarity(found_NK, wanted_NK[1::2].double(), dim=1).mean())
