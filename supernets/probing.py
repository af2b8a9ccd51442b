"""What features are worth on images with labels: a classifier fitted to them, and the vote of nearest neighbours.

Sources: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv 2104.14294 (k-NN,
weights exp(s / 0.07)); Oquab et al., "DINOv2", arXiv 2304.07193 (linear probe of frozen features).

Legend of tensor suffixes: N images, M images to classify, D features, K classes, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.errors import DataError
from supernets.label_metrics import mean_average_precision

DECAYS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
"""Weight decays that are tried, the strongest first."""
HELD_OUT = 10
"""One image of so many of each class decides on the decay; of small classes one in three."""
MOST_ITERATIONS, TOLERANCE = 200, 1e-7
"""Where the search for the least loss ends: steps, and the relative gain of one."""
EXACT_PRODUCTS = 1_000_000_000
"""Products per evaluation of the loss up to which it is computed in float64."""
NEIGHBOURS = 20
CHUNK = 256


@dataclass(frozen=True)
class FittedClassifier:
    """A linear classifier of features.

    Attributes:
        weight_KD: Weights.
        bias_K: Biases.
        decay: Weight decay of standardised features that was chosen.
        held_out: Accuracy in [0, 1] on the images that the choice was made on, before these were learned from too; mean
            average precision where images have several labels.
    """

    weight_KD: Tensor
    bias_K: Tensor
    decay: float
    held_out: float

    def outputs(self, features_MD: Tensor) -> Tensor:
        """What it gives for features ``(M, K)``."""
        return features_MD.float() @ self.weight_KD.T + self.bias_K

    def accuracy(self, features_MD: Tensor, labels_M: Tensor) -> float:
        """Share of images that it is right on, or mean average precision for several labels ``(M, K)``."""
        return _worth(self.outputs(features_MD), labels_M)


def fit_classifier(
    features_ND: Tensor, labels_N: Tensor, classes: int, seed: int = 0, views: tuple[Tensor, Tensor] | None = None
) -> FittedClassifier:
    """Multinomial logistic regression by L-BFGS, its decay chosen on images that are held out for that.

    Where images have several labels it is a binary one of each label. Features are standardised for it, and the
    classifier is for the features as they are.

    Args:
        features_ND: Features of the images to learn from.
        labels_N: Their classes, or whether they have each label ``(N, K)``.
        classes: Number of classes, of which some may have no image.
        seed: Decides which images are held out.
        views: Features of other views of the same images, and their classes, which are learned from too once the decay
            is chosen.

    Raises:
        DataError: There are no images, or features that are not finite.
    """
    if not len(features_ND) or not torch.isfinite(features_ND).all():
        found = "features that are not finite" if len(features_ND) else "no images"
        raise DataError(f"a classifier of {classes} classes cannot be fitted: found {found}")
    exact = features_ND.numel() * classes <= EXACT_PRODUCTS
    x_ND = features_ND.detach().cpu().to(torch.float64 if exact else torch.float32)
    labels_N = labels_N.cpu()
    mean_D, std_D = x_ND.mean(dim=0), x_ND.std(dim=0, correction=0)
    std_D = torch.where(std_D > 1e-6 * std_D.max().clamp_min(1e-12), std_D, torch.ones_like(std_D))
    x_ND = (x_ND - mean_D) / std_D
    held_N = _held_out(labels_N.numpy() if labels_N.ndim == 1 else np.zeros(len(labels_N), dtype=np.int64), seed)
    weights: list[npt.NDArray[np.float64]] = []
    losses: list[float] = []
    shares: list[float] = []
    for decay in DECAYS:
        start_KE = weights[-1] if weights else np.zeros((classes, x_ND.shape[1] + 1))
        weights.append(_minimise(x_ND[~held_N], labels_N[~held_N], decay, start_KE))
        logits_MK = _logits(x_ND[held_N], torch.from_numpy(weights[-1]).to(x_ND.dtype))
        losses.append(float(_loss(logits_MK, labels_N[held_N])))
        shares.append(_worth(logits_MK, labels_N[held_N]))
    best = int(np.argmin(losses))
    if views is not None:
        x_ND = torch.cat([x_ND, (views[0].cpu().to(x_ND.dtype) - mean_D) / std_D])
        labels_N = torch.cat([labels_N, views[1].cpu()])
    fitted_KE = torch.from_numpy(_minimise(x_ND, labels_N, DECAYS[best], weights[best]))
    weight_KD = fitted_KE[:, :-1] / std_D
    bias_K = fitted_KE[:, -1] - weight_KD.to(mean_D.dtype) @ mean_D
    return FittedClassifier(weight_KD.float(), bias_K.float(), DECAYS[best], shares[best])


def nearest_neighbour_accuracy(
    bank_ND: Tensor,
    bank_labels_N: Tensor,
    features_MD: Tensor,
    labels_M: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float | None = None,
) -> float:
    """Share of images whose nearest others, by cosine, are mostly of their class; in a tie the nearest one's class.

    Args:
        bank_ND: Features of the images that vote.
        bank_labels_N: Their classes.
        features_MD: Features of the images to classify.
        labels_M: Their classes.
        neighbours: How many vote.
        temperature: Gives each vote the weight exp(cosine / temperature), as DINO does with 0.07; None counts them
            alike.

    Raises:
        DataError: A class has one image only, whose neighbours are all of others.
    """
    counts_K = torch.bincount(bank_labels_N)
    if (counts_K == 1).any():
        number = int((counts_K == 1).nonzero()[0])
        raise DataError(
            f"nearest neighbours cannot judge class {number}: found one image of it, expected two or more",
            hint="add images to the class, or take the class away",
        )
    k, classes = min(neighbours, len(bank_ND)), len(counts_K)
    bank_ND = F.normalize(bank_ND.float(), dim=1)
    right = 0
    for x_MD, own_M in zip(torch.split(features_MD, CHUNK), torch.split(labels_M, CHUNK), strict=True):
        cosines_Mk, indices_Mk = (F.normalize(x_MD.float(), dim=1) @ bank_ND.T).topk(k, dim=1)
        voted_Mk = bank_labels_N[indices_Mk]
        weights_Mk = torch.ones_like(cosines_Mk) if temperature is None else (cosines_Mk / temperature).exp()
        votes_MK = torch.zeros(len(x_MD), classes, dtype=weights_Mk.dtype).scatter_add_(1, voted_Mk, weights_Mk)
        own_votes_Mk = votes_MK.gather(1, voted_Mk)
        first_M = (own_votes_Mk == own_votes_Mk.amax(dim=1, keepdim=True)).int().argmax(dim=1)
        right += int((voted_Mk.gather(1, first_M[:, None])[:, 0] == own_M).sum())
    return right / len(features_MD)


def _held_out(labels_N: npt.NDArray[np.int64], seed: int) -> Tensor:
    """Which images decide on the decay, class by class."""
    order = np.random.default_rng(seed).permutation(len(labels_N))
    counts = np.bincount(labels_N)
    step = HELD_OUT if counts.max() >= HELD_OUT else 3
    place: dict[int, int] = {}
    held = np.zeros(len(labels_N), dtype=bool)
    for index in order.tolist():
        number = place.get(labels_N[index], 0)
        place[labels_N[index]] = number + 1
        held[index] = number % step == step - 1
    if not held.any():
        held[order[:1]] = True
    return torch.from_numpy(held)


def _worth(logits_MK: Tensor, labels_M: Tensor) -> float:
    if labels_M.ndim == 2:
        return mean_average_precision(logits_MK, labels_M)
    return float((logits_MK.argmax(dim=1) == labels_M).float().mean())


def _loss(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy, summed over labels where images have several."""
    if labels_N.ndim == 2:
        losses_NK = F.binary_cross_entropy_with_logits(logits_NK, labels_N.to(logits_NK.dtype), reduction="none")
        return losses_NK.sum(dim=1).mean()
    return F.cross_entropy(logits_NK, labels_N)


def _logits(x_ND: Tensor, weights_KE: Tensor) -> Tensor:
    return x_ND @ weights_KE[:, :-1].T + weights_KE[:, -1]


def _minimise(
    x_ND: Tensor, labels_N: Tensor, decay: float, start_KE: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Weights and, in the last column, biases of the least mean cross-entropy with decay of the weights."""
    from scipy.optimize import minimize

    has_several = labels_N.ndim == 2
    targets_NK = (labels_N if has_several else F.one_hot(labels_N, len(start_KE))).to(x_ND.dtype)

    def loss_and_gradient(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights_KE = torch.from_numpy(flat.reshape(start_KE.shape)).to(x_ND.dtype)
        logits_NK = _logits(x_ND, weights_KE)
        log_NK = F.logsigmoid(logits_NK) if has_several else logits_NK.log_softmax(dim=1)
        excess_NK = (log_NK.exp() - targets_NK) / len(x_ND)
        gradient_KE = torch.cat([excess_NK.T @ x_ND + decay * weights_KE[:, :-1], excess_NK.sum(dim=0)[:, None]], dim=1)
        if has_several:
            summed = ((1 - targets_NK) * logits_NK - log_NK).sum()
        else:
            summed = -(targets_NK * log_NK).sum()
        loss = summed / len(x_ND) + decay / 2 * weights_KE[:, :-1].square().sum()
        return float(loss), gradient_KE.double().numpy().ravel()

    options = {"maxiter": MOST_ITERATIONS, "ftol": TOLERANCE}
    found = minimize(loss_and_gradient, start_KE.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(found.x, dtype=np.float64).reshape(start_KE.shape)
