"""How well scores tell the images that have a label from those that do not, where images may have several.

Legend of tensor suffixes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor


def average_precisions(scores_NK: Tensor, labels_NK: Tensor) -> list[float | None]:
    """Average precision of each class in [0, 1], without interpolation; None of one that no image has.

    Scores at random come to the share of images that have the label.
    """
    from sklearn.metrics import average_precision_score

    return _by_class(average_precision_score, scores_NK, labels_NK, fewest_without=0)


def areas_under_roc(scores_NK: Tensor, labels_NK: Tensor) -> list[float | None]:
    """Area under the ROC curve of each class in [0, 1]; None of a class that all images have, or none."""
    from sklearn.metrics import roc_auc_score

    return _by_class(roc_auc_score, scores_NK, labels_NK, fewest_without=1)


def mean_average_precision(scores_NK: Tensor, labels_NK: Tensor) -> float:
    """The mean of `average_precisions` over classes that some image has."""
    return mean_known(average_precisions(scores_NK, labels_NK))


def mean_known(values: Sequence[float | None]) -> float:
    """The mean of what is known; NaN where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")


def _by_class(
    measure: Callable[..., Any], scores_NK: Tensor, labels_NK: Tensor, fewest_without: int
) -> list[float | None]:
    """A measure of each class; that of scores which are not finite is NaN."""
    scores = scores_NK.detach().cpu().double().numpy()
    is_label = labels_NK.cpu().numpy() > 0
    if not bool(scores_NK.isfinite().all()):
        return [float("nan")] * scores.shape[1]
    return [
        float(measure(is_N, score_N)) if is_N.any() and int((~is_N).sum()) >= fewest_without else None
        for is_N, score_N in zip(is_label.T, scores.T, strict=True)
    ]
