"""What a training does about classes that have many more images than others.

Source: Rangwani et al., "DeiT-LT: Distillation Strikes Back for Vision Transformer Training on Long-Tailed Datasets",
CVPR 2024, arXiv 2404.02900; the weights are those of Cui et al., "Class-Balanced Loss Based on Effective Number of
Samples", CVPR 2019, arXiv 1901.05555, put off as in Cao et al., "Learning Imbalanced Datasets with
Label-Distribution-Aware Margin Loss", NeurIPS 2019, arXiv 1906.07413.

Legend of tensor suffixes: K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from supernets.data.image_data import ImageData, IntArray
from supernets.errors import DataError
from supernets.training.settings import TrainingSettings

BETA = 0.9999
"""Share of what an image adds that the next one of its class still adds."""


def effective_weights(counts_K: IntArray) -> Tensor:
    """Weights ``(K,)`` of classes, inversely as the effective numbers of their images, one on average.

    Args:
        counts_K: Images of each class, one or more.
    """
    effective_K = -np.expm1(counts_K * np.log(BETA)) / (1 - BETA)
    weights_K = 1 / effective_K
    return torch.tensor(weights_K * len(counts_K) / weights_K.sum(), dtype=torch.float32)


def class_weights(settings: TrainingSettings, data: ImageData, device: torch.device) -> Tensor | None:
    """The weights ``(K,)`` that settings ask for, on ``device``; None for none.

    Raises:
        DataError: A class has no training image.
    """
    if settings.class_weights == "none":
        return None
    counts_K = data.class_counts("train")
    if not counts_K.all():
        name = data.class_names[int(counts_K.argmin())]
        raise DataError(
            f"data `{data.source}`: class `{name}` has no training images, so that it can have no weight",
            hint="add some, take the class away, or leave `class_weights` out",
        )
    return effective_weights(counts_K).to(device)
