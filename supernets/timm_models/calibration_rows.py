"""What is looked at where layers of a timm model are solved anew: images, the layers of each part, and drawn rows.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, M drawn rows (tokens), I inputs.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn

from search_spaces.timm_models import TimmBlock
from supernets.supernet import Supernet
from supernets.timm_models.branches import Reading, readings

BATCH = 32
ROWS, ROWS_PER_INPUT = 32_768, 4
"""Rows that a layer is solved from: at least the first number, and so many times its inputs."""


class CalibrationRows:
    """The images that layers of a supernet are solved on, and which rows of what flows are looked at.

    Args:
        supernet: Supernet of a timm space.
        images_BCHW: Normalised images.

    Attributes:
        images: The images in batches, where the supernet is.
        parts: The parts of the whole network by name.
    """

    def __init__(self, supernet: Supernet, images_BCHW: Tensor) -> None:
        self._supernet = supernet
        self.images = [part_BCHW.to(supernet.device) for part_BCHW in torch.split(images_BCHW, BATCH)]
        self.parts = dict(supernet.space.base.shared_blocks())
        self._readings: dict[str, list[list[Reading]]] = {}

    def layers(self, name: str, part: nn.Module, x: Tensor) -> list[list[Reading]]:
        """The layers of a part that can be solved, see `readings`; ``x`` is something that may flow in."""
        if name not in self._readings:
            axes = self._supernet.family.axes(self.full_block(name))
            self._readings[name] = readings(part, axes, x[:1])
        return self._readings[name]

    def known_layers(self, name: str) -> list[list[Reading]]:
        """Those of a part that `layers` was asked for before; none of another."""
        return self._readings.get(name, [])

    def full_block(self, name: str) -> TimmBlock:
        """The size of a part in the whole network."""
        spec = self.parts[name]
        assert isinstance(spec, TimmBlock)
        return spec

    def drawn(self, x: Tensor, number: int) -> Tensor:
        """Some rows ``(M, I)`` of what flows somewhere, the same ones wherever there are as many; channels come last.

        Args:
            x: What flows there for one batch of the images.
            number: Number of the batch.
        """
        rows_MI = x.flatten(0, -2)
        if len(rows_MI) <= self._rows_per_batch:
            return rows_MI
        generator = torch.Generator().manual_seed(number)
        drawn = torch.randperm(len(rows_MI), generator=generator)[: self._rows_per_batch].sort().values
        return rows_MI[drawn.to(x.device)]

    @cached_property
    def _rows_per_batch(self) -> int:
        inputs = max(layer.in_features for layer in self._supernet.network.modules() if isinstance(layer, nn.Linear))
        return -(-max(ROWS, ROWS_PER_INPUT * inputs) // len(self.images))


def are_enough(a_MI: Tensor) -> bool:
    """Whether there are rows enough for a layer whose inputs they are."""
    return len(a_MI) >= ROWS_PER_INPUT * a_MI.shape[1]
