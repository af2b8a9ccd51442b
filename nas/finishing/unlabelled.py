"""A finish without labels: the network learns what the model sees that it was cut out of, and is judged by fidelity."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.evaluation.evaluators import calibration_batches
from nas.evaluation.fidelity import FidelityEvaluator, outputs_of, solve_last_layer
from nas.finishing.source import Source
from search_spaces import Architecture

if TYPE_CHECKING:
    from torch import Tensor

    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet


class Unlabelled:
    """The model, and what it says of the images.

    Args:
        original: File with the model.
        images: Images; their labels are not looked at.
        seed: Seed of the training batches that BatchNorm statistics are estimated on.
    """

    def __init__(self, original: Path, images: ImageData, seed: int) -> None:
        self._original, self._images, self._seed = original, images, seed

    @classmethod
    def of(cls, source: Source, images: ImageData, seed: int) -> Unlabelled | None:
        """What a finish of a network needs that was searched without labels; None for any other."""
        return None if source.uses_labels or source.original is None else cls(source.original, images, seed)

    def judge(self, network: Supernet, architecture: Architecture) -> float:
        """Fidelity of a network alone to the model, on the search part."""
        evaluator = FidelityEvaluator(network, self._images, self._seed, wanted_NK=self._wanted_NK)
        return evaluator.evaluate(architecture, self._seed).objective

    def complete(self, network: Supernet) -> None:
        """Solve the last layer of a trained network for what the model gives; nothing trained it.

        Raises:
            DegenerateError: The features are not finite.
        """
        from supernets.batch_norm import reestimate_batch_norm

        reestimate_batch_norm(network.network, calibration_batches(self._images, self._seed))
        solve_last_layer(network, self._whole, self._images)

    def facts(self, path: Path, network: Supernet, architecture: Architecture) -> dict[str, Any]:
        """What an exported ONNX file is worth on the test part, ready for JSON."""
        from nas.exporting.verify import onnx_fidelity

        return onnx_fidelity(path, self._whole, self._images, network.space, architecture)

    @cached_property
    def _whole(self) -> Supernet:
        from supernets.checkpoint import load_supernet

        return load_supernet(self._original)[0].eval()

    @cached_property
    def _wanted_NK(self) -> Tensor:
        return outputs_of(self._whole.network, self._images, "search")
