"""What a finish gives back, and ``finish.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, BALANCED, FIDELITY, MACRO_AUROC
from search_spaces import Architecture

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData

PLAIN_FIELDS = ("verified", "steps", "epochs", "seconds")
"""Fields of a result that stand in JSON as they are."""


FIGURES = ((ACCURACY, BALANCED), (AVERAGE_PRECISION, MACRO_AUROC), (FIDELITY, BALANCED))
"""What networks are judged by, and what stands beside it: on one label, on several, and on none."""


def figures_of(images: ImageData, uses_labels: bool) -> tuple[str, str]:
    """The pair of `FIGURES` that a network is judged by."""
    return FIGURES[2 if not uses_labels else 1 if images.has_several_labels else 0]


@dataclass(frozen=True)
class FinishResult:
    """A finished network.

    Attributes:
        run: The run folder.
        checkpoint: The file with the weights.
        architecture: The network.
        accuracy: Accuracy on the search part of the images, in [0, 1], by stage: ``inherited`` (None from scratch),
            ``trained`` at the end of the training, ``averaged`` over good checkpoints, which is what the checkpoint
            holds; ``teacher`` where there is one; ``sliced`` and ``compensated`` where what was cut is made up for
            first; and in fewer bits ``fp32``, and the stages that were tried before training. Without labels it is
            fidelity, see `nas.evaluation.fidelity`.
        balanced_accuracy: The mean of the accuracies on each class, for the same stages but for that of the teacher;
            empty without labels. Where classes are weighted, it chooses what is averaged.
        figures: What these two are called in ``finish.json`` and ``verified``: where images have several labels,
            ``mean_average_precision`` and ``macro_auroc`` take their place; without labels ``fidelity`` stands in that
            of the first.
        averaged: The checkpoints that were averaged.
        verified: Facts about the exported files: ``test_accuracy`` in ONNX Runtime on the test part, which nothing has
            looked at before, ``torch_test_accuracy`` (without labels ``test_fidelity`` in place of both),
            ``test_images``, ``export`` and ``proof``; and ``exits`` where it has some.
        steps: Optimiser steps in all.
        epochs: Passes over the training images.
        seconds: Time trained, over all sessions.
    """

    run: Path
    checkpoint: Path
    architecture: Architecture
    accuracy: Mapping[str, float | None]
    balanced_accuracy: Mapping[str, float]
    averaged: tuple[str, ...]
    verified: Mapping[str, Any]
    steps: int
    epochs: float
    seconds: float
    figures: tuple[str, str] = (ACCURACY, BALANCED)

    def to_dict(self) -> dict[str, Any]:
        """What ``finish.json`` holds."""
        found = asdict(self)
        accuracy, balanced, figures = (found.pop(name) for name in ("accuracy", "balanced_accuracy", "figures"))
        return {
            "schema": 1,
            **dict(zip(figures, (accuracy, balanced), strict=True)),
            **found,
            "run": str(self.run),
            "checkpoint": str(self.checkpoint.relative_to(self.run)),
            "architecture": self.architecture.to_dict(),
            "averaged": list(self.averaged),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> FinishResult:
        """Read what `to_dict` wrote."""
        run = Path(document["run"])
        figures = next(names for names in FIGURES if names[0] in document)
        accuracy, balanced = (document[name] for name in figures)
        return cls(
            accuracy=accuracy,
            balanced_accuracy=balanced,
            figures=figures,
            run=run,
            checkpoint=run / document["checkpoint"],
            architecture=Architecture.from_dict(document["architecture"]),
            averaged=tuple(document["averaged"]),
            **{name: document[name] for name in PLAIN_FIELDS},
        )
