"""A network as it will compute in fewer bits, to be judged and trained before any file is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from latency_tables.onnx_quantised import CALIBRATION_IMAGES, WEIGHT_BITS, Precision
from nas.quantisation.equalise import equalise
from nas.quantisation.fake import FakeQuantisation
from nas.quantisation.watching import inputs_of_layers, weighted_layers

Wanted = Precision | Mapping[str, Precision]
"""One precision for all layers, or one for each by name."""


def in_integers(network: nn.Module, images_BCHW: Tensor, wanted: Wanted) -> Callable[[Tensor], Tensor]:
    """The network in fewer bits: images ``(B, C, H, W)`` to logits ``(B, K)``.

    Args:
        network: In evaluation mode; its layer norms are equalised in place where activations are quantised.
        images_BCHW: Training images that ranges are found on, as the network takes them.
        wanted: What its inner layers compute in.
    """
    mode = integer_mode(network, images_BCHW, wanted)
    return lambda x_BCHW: mode.run(network, x_BCHW)


def integer_mode(network: nn.Module, images_BCHW: Tensor, wanted: Wanted) -> FakeQuantisation:
    """What computes a network in fewer bits, as `in_integers` does."""
    calibration_BCHW = images_BCHW[:CALIBRATION_IMAGES]
    precisions: dict[str, Precision] = {}
    for layer in weighted_layers(network, calibration_BCHW[:1]):
        precision = wanted if isinstance(wanted, str) else wanted.get(layer.name, "fp32")
        if not layer.reads_image and (layer.kind == "linear" or precision == "int8"):
            precisions[layer.name] = precision
    if not set(WEIGHT_BITS).issuperset(precisions.values()):
        equalise(network, calibration_BCHW)
    return FakeQuantisation(network, precisions, inputs_of_layers(network, calibration_BCHW))


class OrderedQuantisation(FakeQuantisation):
    """The same for networks that run on borrowed tensors, whose layers are known by the order in which they run."""

    def __init__(self, known: FakeQuantisation, order: Sequence[str]) -> None:
        super().__init__(nn.Module(), known.precisions, known.ranges)
        self._order, self._place = order, 0

    def __enter__(self) -> Self:
        """Begin with the first layer."""
        self._place = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def next_name(self) -> str:
        """The name of the layer that is called."""
        self._place += 1
        return self._order[self._place - 1]
