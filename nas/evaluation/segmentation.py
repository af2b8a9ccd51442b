"""Mean intersection over union as an objective: how well patches of the networks inside a model tell classes apart.

Legend of tensor suffixes: B batch, C channels, H and W rows and columns, K classes, N images, S side of the map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas.errors import EvaluationError, UsageError
from nas.evaluation.evaluators import EvaluationResult, calibration_batches
from nas.objectives.objective import MEAN_IOU
from search_spaces import Architecture
from search_spaces.timm_models import TOKENS

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from supernets.data.image_data import ImageData, Part
    from supernets.data.mask_folder import MaskedData
    from supernets.supernet import Supernet
    from supernets.timm_models.compensation import Compensator

    Maps = Callable[[Tensor], Tensor]
    """Images ``(B, 3, H, W)`` to a map of features ``(B, C, S, S)``."""

MOST_LEARNED, MOST_JUDGED = 512, 1_000
"""Training images that a probe is fitted to, and images that it is judged on, at most."""
BATCH = 32
STRIDE = 16
"""The map that is probed is the coarsest of those at strides up to this."""


@dataclass(frozen=True)
class Segmented:
    """What a probe of patches finds.

    Attributes:
        class_names: Names of the classes.
        unions: Intersection over union of each; None of one that is neither there nor found.
        images: Images that were judged.
    """

    class_names: Sequence[str]
    unions: Sequence[float | None]
    images: int

    @property
    def value(self) -> float:
        """The mean over classes."""
        from supernets.label_metrics import mean_known

        return mean_known(self.unions)

    def to_dict(self, part: str) -> dict[str, Any]:
        """Ready for JSON, each key with the name of the ``part`` of the images before it."""
        return {
            f"{part}_{MEAN_IOU}": self.value,
            f"{part}_images": self.images,
            f"{part}_iou_by_class": dict(zip(self.class_names, self.unions, strict=True)),
        }


class SegmentationEvaluator:
    """Judges networks inside a model by a linear probe of their patches, fitted on training images and their masks.

    Args:
        supernet: Trained weights.
        data: Images with masks.
        seed: Seed of the training batches that BatchNorm statistics are estimated on.
        compensator: Maker of the networks, where what was cut is made up for; None takes them as they are.
    """

    name = MEAN_IOU
    is_free = False

    def __init__(
        self, supernet: Supernet, data: ImageData, seed: int = 0, compensator: Compensator | None = None
    ) -> None:
        self._make = supernet.extract if compensator is None else compensator
        self._supernet, self._data = supernet.eval(), with_masks(data)
        self._calibration = [x_BCHW.to(supernet.device) for x_BCHW in calibration_batches(data, seed)]

    def evaluate(self, architecture: Architecture, seed: int) -> EvaluationResult:
        """Mean intersection over union in [0, 1] on the search part; ``seed`` changes nothing."""
        return self._evaluate(architecture, 1.0)

    def evaluate_batch(
        self, architectures: Sequence[Architecture], seed: int, fidelity: float = 1.0
    ) -> Iterator[EvaluationResult | EvaluationError]:
        """Judge networks one by one, each as it would be alone.

        Args:
            architectures: Architectures of the supernet's space.
            seed: Changes nothing.
            fidelity: Share of the images that is looked at, evenly over them.
        """
        for architecture in architectures:
            try:
                yield self._evaluate(architecture, fidelity)
            except EvaluationError as error:
                yield error

    def _evaluate(self, architecture: Architecture, share: float) -> EvaluationResult:
        import torch

        from supernets.batch_norm import reestimate_batch_norm
        from supernets.errors import SupernetError

        supernet = self._supernet
        if dict(architecture.settings).get(TOKENS):
            raise EvaluationError("the network merges tokens, so that its patches are on no grid any more")
        try:
            with torch.no_grad():
                network = self._make(architecture).eval()
                reestimate_batch_norm(network, self._calibration)
                side = supernet.space.input_shape(dict(architecture.settings))[-1]
                maps = maps_of(network, lambda x_BCHW: supernet.family.prepare(x_BCHW.to(supernet.device), side), side)
                return EvaluationResult(segmented(maps, self._data, "search", share).value, {})
        except torch.OutOfMemoryError as error:
            raise EvaluationError(f"out of memory: {error}") from error
        except SupernetError as error:
            raise EvaluationError(str(error)) from error


def with_masks(data: ImageData) -> MaskedData:
    """Images with masks.

    Raises:
        UsageError: They have none.
    """
    from supernets.data.mask_folder import MaskedData

    if not isinstance(data, MaskedData):
        raise UsageError(
            f"objective `{MEAN_IOU}`: `{data.source}` has no masks, expected folders `images` and `masks` in it",
            hint="a mask is a PNG file of the image's name, with the number of a class in each pixel",
        )
    return data


def maps_of(network: torch.nn.Module, prepare: Callable[[Tensor], Tensor], side: int) -> Maps:
    """The map of a network that is probed.

    Args:
        network: In evaluation mode.
        prepare: Brings images to its side and device.
        side: Side of its images.

    Raises:
        SupernetError: It has no map of patches.
    """
    import torch

    from supernets.feature_maps import FeatureMaps

    module = FeatureMaps(network, prepare(torch.zeros(1, 3, side, side)))
    place = chosen_stride(list(module.maps))
    return lambda x_BCHW: module(prepare(x_BCHW))[1 + place]


def chosen_stride(strides: Sequence[int]) -> int:
    """Which of some maps, by their strides, the finest first, is probed."""
    return max(sum(stride <= STRIDE for stride in strides) - 1, 0)


def segmented(maps: Maps, data: MaskedData, part: Part, share: float = 1.0) -> Segmented:
    """Fit a probe to training images, and judge it on a part of them.

    Args:
        maps: Gives the features.
        data: Images with masks.
        part: Part of the images that is judged on.
        share: Share of the images that is looked at, evenly over them.

    Raises:
        DegenerateError: The maps are not finite.
    """
    import torch

    from supernets.segmentation import confusion, fit_patch_probe, intersections_over_unions

    def batches(part: Part, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        count = max(2, round(share * min(most, data.splits[part])))
        masks_NHW = data.masks(part, count)
        for number, (x_BCHW, _) in enumerate(data.batches(part, BATCH, count)):
            yield x_BCHW, masks_NHW[number * BATCH : number * BATCH + len(x_BCHW)]

    classes, side = data.classes, data.image_side
    with torch.no_grad():
        probe = fit_patch_probe(((maps(x_BCHW), mask) for x_BCHW, mask in batches("train", MOST_LEARNED)), classes)
        counts_KK, images = torch.zeros(classes, classes, dtype=torch.int64), 0
        for x_BCHW, mask_BHW in batches(part, MOST_JUDGED):
            counts_KK += confusion(probe.classes(maps(x_BCHW), side), mask_BHW, classes)
            images += len(x_BCHW)
    return Segmented(data.class_names, intersections_over_unions(counts_KK), images)
