"""Fidelity as an objective: how much of what a model sees in images the networks inside it still see.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, N images, D features, K components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nas.errors import EvaluationError
from nas.evaluation.accuracy import check_one_label
from nas.evaluation.classifier import MOST_IMAGES
from nas.evaluation.compensation import Compensation, alone_of
from nas.evaluation.evaluators import (
    BATCH_SIZE,
    FP32,
    BalancedEvaluator,
    EvaluationResult,
    SupernetEvaluator,
    calibration_batches,
)
from nas.evaluation.segmentation import SegmentationEvaluator
from nas.objectives.objective import BALANCED, FIDELITY, MEAN_IOU
from search_spaces import Architecture

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nas.quantisation.evaluated import Wanted
    from supernets.data.image_data import ImageData, Part
    from supernets.supernet import Supernet
    from supernets.timm_models.compensation import Compensator


class FidelityEvaluator:
    """Judges networks inside a model by `supernets.fidelity`, on the search part of the images without its labels.

    Args:
        supernet: Weights whose whole network's outputs are components of its features.
        data: Images that those were found on, divided as they were.
        seed: Seed of the training batches that BatchNorm statistics are estimated on.
        compensator: Maker of the networks, where what was cut is made up for; None takes them as they are.
        wanted_NK: What the whole model gives for the search part; None where the supernet's largest network is that.
    """

    name = FIDELITY
    is_free = False

    def __init__(
        self,
        supernet: Supernet,
        data: ImageData,
        seed: int = 0,
        compensator: Compensator | None = None,
        wanted_NK: Tensor | None = None,
    ) -> None:
        self._make = supernet.extract if compensator is None else compensator
        self._supernet = supernet.eval()
        self._data = data
        self._calibration = [x_BCHW.to(supernet.device) for x_BCHW in calibration_batches(data, seed)]
        if wanted_NK is None:
            wanted_NK = outputs_of(supernet.network, data, "search", supernet.device)
        self._wanted_NK = wanted_NK

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """Fidelity in [-1, 1] of one network; ``seed`` changes nothing."""
        return self._evaluate(architecture, 1.0)

    def evaluate_batch(
        self, architectures: Sequence[Architecture], seed: int, fidelity: float = 1.0
    ) -> Iterator[EvaluationResult | EvaluationError]:
        """Judge networks one by one, each as it would be alone.

        Args:
            architectures: Architectures of the supernet's space.
            seed: Changes nothing.
            fidelity: Share of the search part that is looked at, evenly over it.
        """
        for architecture in architectures:
            try:
                yield self._evaluate(architecture, fidelity)
            except EvaluationError as error:
                yield error

    def _evaluate(self, architecture: Architecture, share: float) -> EvaluationResult:
        import torch

        from supernets.batch_norm import reestimate_batch_norm
        from supernets.features import run_watched
        from supernets.fidelity import fidelity
        from supernets.least_squares import DegenerateError

        most = max(2, round(share * len(self._wanted_NK)))
        taken = [number * len(self._wanted_NK) // most for number in range(most)]
        try:
            with torch.no_grad():
                network = self._make(architecture).eval()
                reestimate_batch_norm(network, self._calibration)
                rows = [
                    run_watched(network, self._supernet.space, x_BCHW.to(self._supernet.device))
                    for x_BCHW, _ in self._data.batches("search", BATCH_SIZE, most)
                ]
                features_ND, outputs_NK = (torch.cat(parts).cpu() for parts in zip(*rows, strict=True))
                return EvaluationResult(fidelity(features_ND, outputs_NK, self._wanted_NK[taken]), {})
        except torch.OutOfMemoryError as error:
            raise EvaluationError(f"out of memory: {error}") from error
        except DegenerateError as error:
            raise EvaluationError(str(error)) from error


def trained_evaluator(
    objective: str,
    supernet: Supernet,
    data: ImageData,
    seed: int = 0,
    compensator: Compensator | None = None,
    precision: Wanted = FP32,
) -> SupernetEvaluator | FidelityEvaluator | SegmentationEvaluator:
    """What judges networks with trained weights by an objective: accuracy, balanced accuracy, fidelity or mean IoU.

    Args are those of `SupernetEvaluator`; the last two are taken in single precision.
    """
    if objective == FIDELITY:
        return FidelityEvaluator(supernet, data, seed, compensator)
    if objective == MEAN_IOU:
        return SegmentationEvaluator(supernet, data, seed, compensator)
    if objective == BALANCED:
        check_one_label(data, f"objective `{BALANCED}`")
    make = BalancedEvaluator if objective == BALANCED else SupernetEvaluator
    return make(supernet, data, seed, compensator, precision)


def chosen_without_labels(
    supernet: Supernet, data: ImageData, architecture: Architecture, seed: int, compensation: Compensation | None
) -> Supernet:
    """The network that was chosen, alone: its last layer is solved anew, for what the whole network gives.

    Args:
        supernet: As `FidelityEvaluator` takes it.
        data: Images, whose training part is solved on.
        architecture: The network.
        seed: Seed of the choice of images that other layers are solved on.
        compensation: How the search made up for what it cut; its layers are then solved in order.

    Raises:
        DataError: There are too few training images.
        DegenerateError: Activations are not finite.
    """
    alone = alone_of(supernet, data, architecture, seed, compensation)
    if architecture != supernet.space.largest:
        solve_last_layer(alone, supernet, data)
    return alone


def solve_last_layer(alone: Supernet, whole: Supernet, data: ImageData) -> None:
    """Give a network a last layer by which it gives what a whole one gives.

    Args:
        alone: The network alone, changed in place.
        whole: Supernet whose whole network's outputs are components of its features.
        data: Images, whose training part is solved on.

    Raises:
        DegenerateError: The features are not finite.
    """
    from supernets.features import FeatureReader, classifier_of, put_classifier
    from supernets.fidelity import refitted

    seen, wanted = (FeatureReader(each).read(data, "train", MOST_IMAGES).values_ND for each in (alone, whole))
    put_classifier(alone, refitted(classifier_of(alone), seen, classifier_of(whole).outputs(wanted)))


def outputs_of(
    network: Callable[[Tensor], Any], data: ImageData, part: Part, device: torch.device | str = "cpu"
) -> Tensor:
    """What a network gives for a part of the images, ``(N, K)`` on the CPU."""
    import torch

    with torch.no_grad():
        found = [torch.as_tensor(network(x_BCHW.to(device))).cpu() for x_BCHW, _ in data.batches(part, BATCH_SIZE)]
    return torch.cat(found)


def mean_cosine(found_NK: Tensor, wanted_NK: Tensor) -> float:
    """Mean cosine in [-1, 1] of what a network gives and what it should give."""
    from torch.nn import functional as F

    return float(F.cosine_similarity(found_NK.double(), wanted_NK.double(), dim=1).mean())
