"""How well a network tells labels of which an image may have several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.objectives.objective import AVERAGE_PRECISION, MACRO_AUROC

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LabelJudgement:
    """How well a network tells each label from its absence.

    Attributes:
        class_names: Names of the labels.
        count: Images that were looked at.
        priors: Share of the images that have each label, which is the average precision of guessing.
        precisions: Average precision of each; None of one that no image has.
        areas: Area under the ROC curve of each; None of one that all images have, or none.
    """

    class_names: Sequence[str]
    count: int
    priors: Sequence[float]
    precisions: Sequence[float | None]
    areas: Sequence[float | None]

    name = AVERAGE_PRECISION
    beside_name = MACRO_AUROC

    @classmethod
    def of(cls, class_names: Sequence[str], scores_NK: Tensor, labels_NK: Tensor) -> LabelJudgement:
        """From logits or probabilities of images, and whether they have each label."""
        from supernets.label_metrics import areas_under_roc, average_precisions

        priors = labels_NK.double().mean(dim=0).tolist()
        found = average_precisions(scores_NK, labels_NK), areas_under_roc(scores_NK, labels_NK)
        return cls(class_names, len(labels_NK), priors, *found)

    @property
    def value(self) -> float:
        """Mean average precision, over labels that some image has."""
        from supernets.label_metrics import mean_known

        return mean_known(self.precisions)

    @property
    def beside(self) -> float:
        """The mean of the areas under the ROC curves."""
        from supernets.label_metrics import mean_known

        return mean_known(self.areas)

    @property
    def prior(self) -> float:
        """Mean average precision of guessing: the mean share of images that have a label, over those that some has."""
        known = [prior for prior in self.priors if prior]
        return sum(known) / len(known)

    def to_dict(self, part: str, counts: Sequence[int] = ()) -> dict[str, Any]:
        """Ready for JSON, each key with the name of the ``part`` of the images before it.

        Args:
            part: Part of the images that was judged.
            counts: Training images with each label, told beside.
        """
        by_class: dict[str, dict[str, Any]] = {
            name: {"prior": prior, "average_precision": precision, "auroc": area}
            for name, prior, precision, area in zip(
                self.class_names, self.priors, self.precisions, self.areas, strict=True
            )
        }
        for name, count in zip(self.class_names, counts, strict=False):
            by_class[name]["training_images"] = count
        return {
            f"{part}_{AVERAGE_PRECISION}": self.value,
            f"{part}_{MACRO_AUROC}": self.beside,
            f"{part}_prior": self.prior,
            f"{part}_images": self.count,
            f"{part}_by_label": by_class,
        }
