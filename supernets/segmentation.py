"""What maps of features are worth for segmentation: a linear probe of the patches, judged pixel by pixel.

Each patch learns the share of its pixels that is of each class, by ridge regression; scores are enlarged bilinearly,
and each pixel takes the class of the highest one. Everything is summed batch by batch, so that no maps are kept.

Related: Oquab et al., "DINOv2", arXiv 2304.07193, section 7.4, whose linear layer is trained by cross-entropy.

Legend of tensor suffixes: B batch, C channels, K classes, D one, channels and classes side by side, S side of the map,
H and W rows and columns of images, M patches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.least_squares import ALPHA, damped_factor

NO_CLASS = 255


@dataclass(frozen=True)
class PatchProbe:
    """Linear scores of patches.

    Attributes:
        weight_KC: Weights of normalised features.
        bias_K: Biases.
    """

    weight_KC: Tensor
    bias_K: Tensor

    def classes(self, map_BCSS: Tensor, side: int) -> Tensor:
        """The class of each pixel of images of ``side`` pixels, ``(B, side, side)``."""
        scores_BSSK = _normalised(map_BCSS) @ self.weight_KC.T + self.bias_K
        scores_BKSS = scores_BSSK.permute(0, 3, 1, 2).float()
        return F.interpolate(scores_BKSS, (side, side), mode="bilinear", align_corners=False).argmax(dim=1)


def fit_patch_probe(pairs: Iterable[tuple[Tensor, Tensor]], classes: int, alpha: float = ALPHA) -> PatchProbe:
    """Fit a probe to maps ``(B, C, S, S)`` and the classes ``(B, H, W)`` of the pixels, 255 for none.

    Args:
        pairs: Batches of both.
        classes: Number of classes.
        alpha: Damping, as a share of the mean variance of a feature.

    Raises:
        DegenerateError: The maps are not finite.
    """
    gram_DD: Tensor | None = None
    for map_BCSS, mask_BHW in pairs:
        x_MC = _normalised(map_BCSS).flatten(0, 2)
        shares_MK, is_known_M = patch_shares(mask_BHW, map_BCSS.shape[-1], classes)
        both_MD = torch.cat([torch.ones_like(x_MC[:, :1]), x_MC, shares_MK.to(x_MC)], dim=1)[is_known_M]
        products_DD = both_MD.T @ both_MD
        gram_DD = products_DD if gram_DD is None else gram_DD + products_DD
    assert gram_DD is not None, "a probe has images to learn from"
    mean_D = gram_DD[0] / gram_DD[0, 0]
    covariance_DD = gram_DD / gram_DD[0, 0] - mean_D[:, None] * mean_D
    channels = slice(1, len(gram_DD) - classes)
    factor_CC = damped_factor(covariance_DD[channels, channels], alpha)
    weight_KC = torch.cholesky_solve(covariance_DD[channels, channels.stop :], factor_CC).T
    return PatchProbe(weight_KC, mean_D[channels.stop :] - weight_KC @ mean_D[channels])


def patch_shares(mask_BHW: Tensor, side: int, classes: int) -> tuple[Tensor, Tensor]:
    """The share of each patch's pixels ``(M, K)`` that is of each class, and whether ``(M,)`` any is of one."""
    counts_BKSS = torch.stack(
        [F.adaptive_avg_pool2d((mask_BHW == number).double(), side) for number in range(classes)], dim=1
    )
    counts_MK = counts_BKSS.permute(0, 2, 3, 1).flatten(0, 2)
    total_M = counts_MK.sum(dim=1)
    return counts_MK / total_M.clamp_min(1e-12)[:, None], total_M > 0


def confusion(found_BHW: Tensor, mask_BHW: Tensor, classes: int) -> Tensor:
    """Pixels by class ``(K, K)``, true ones in rows; those of no class are left out."""
    is_known_BHW = mask_BHW != NO_CLASS
    pairs = mask_BHW[is_known_BHW].long() * classes + found_BHW[is_known_BHW].cpu()
    return torch.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def intersections_over_unions(confusion_KK: Tensor) -> list[float | None]:
    """Pixels found rightly, of those that are or were found to be of a class; None where there are none."""
    right_K = confusion_KK.diagonal()
    union_K = confusion_KK.sum(dim=0) + confusion_KK.sum(dim=1) - right_K
    return [right / union if union else None for right, union in zip(right_K.tolist(), union_K.tolist(), strict=True)]


def _normalised(map_BCSS: Tensor) -> Tensor:
    """Maps in double precision, channels last, each patch with mean 0 and variance 1 as behind a norm."""
    map_BSSC = map_BCSS.detach().cpu().double().permute(0, 2, 3, 1)
    return F.layer_norm(map_BSSC, map_BSSC.shape[-1:])
