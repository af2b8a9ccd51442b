"""Position embeddings of smaller grids, interpolated from the shared one.

The interpolation is timm's: prefix tokens keep their embedding, the grid is resized with bicubic interpolation and
anti-aliasing, which is linear in the shared tensor. Positions come as a sequence or as a map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.axes import RESIZE, Narrowing, make_slicing, parse_axes


@dataclass(frozen=True)
class Resizing(Narrowing):
    """How shared positions become those of a smaller grid.

    They are ``(1, prefix + side * side, embed)``, or ``(1, embed, side, side)``.

    Attributes:
        prefix: Number of leading tokens that belong to no place in the grid.
        side: Side of the subnet's grid.
    """

    prefix: int = 0
    side: int = 0

    def narrow(self, shared: Tensor) -> Tensor:
        """The subnet's tensor; a copy."""
        return self._resized(self.region(shared))

    def accumulate(self, shared_gradient: Tensor, gradient: Tensor) -> None:
        """Add a subnet tensor's gradient into the shared one, back through the interpolation."""
        region = self.region(shared_gradient)
        with torch.enable_grad():
            probe = torch.zeros_like(region, requires_grad=True)
            resized = self._resized(probe)
        region.add_(torch.autograd.grad(resized, probe, gradient)[0])

    def _resized(self, positions: Tensor) -> Tensor:
        is_map = positions.ndim == 4
        return resize_map(positions, self.side) if is_map else resize_positions(positions, self.prefix, self.side)


def make_resizing(
    description: str, shape: tuple[int, ...], full: Mapping[str, int], active: Mapping[str, int]
) -> Narrowing:
    """Plan the narrowing of a tensor of positions.

    Args:
        description: The tensor's axes: three dimensions for a sequence, of which the second is ``AXIS:resize``; four
            for a map, of which the last two are ``AXIS:resize``.
        shape: The shared tensor's shape.
        full: Size of each named axis in the shared tensor; for a sequence also ``AXIS.prefix``, the number of prefix
            tokens.
        active: Size of each named axis in the subnet.

    Raises:
        ValueError: Description and shape do not fit, or a grid is not square.
    """
    dimensions = parse_axes(description)
    places = {3: (1,), 4: (2, 3)}.get(len(dimensions), ())
    found = {dimensions[place] for place in places}
    if len(found) != 1 or [axis.mode for axis in next(iter(found))] != [RESIZE]:
        raise ValueError(
            f"axes `{description}`: expected three dimensions, the second one of positions alone, or four, the last two"
            " of one side of positions"
        )
    name = dimensions[places[0]][0].name
    if any(full[name] != shape[place] for place in places):
        raise ValueError(f"axes `{description}`: {full[name]} positions, the tensor has shape {shape}")
    is_map = len(dimensions) == 4
    prefix, side = (0, active[name]) if is_map else _prefix_and_side(description, name, full, active)
    whole = make_slicing(description.replace(f"{name}:{RESIZE}", "."), shape, full, active)
    if active[name] == full[name]:
        return whole
    resized = tuple(active[name] if place in places else size for place, size in enumerate(whole.shape))
    return Resizing(whole.split_shape, whole.slices, whole.region_shape, resized, prefix, side)


def _prefix_and_side(
    description: str, name: str, full: Mapping[str, int], active: Mapping[str, int]
) -> tuple[int, int]:
    """Prefix tokens of a sequence, and the side of the subnet's grid."""
    prefix = full[f"{name}.prefix"]
    for sizes in (full, active):
        if isqrt(sizes[name] - prefix) ** 2 + prefix != sizes[name]:
            raise ValueError(f"axes `{description}`: {sizes[name]} positions with {prefix} prefix tokens are no square")
    return prefix, isqrt(active[name] - prefix)


def resize_positions(positions_1NC: Tensor, prefix: int, side: int) -> Tensor:
    """Positions of a square grid to one of another side; the first ``prefix`` tokens are kept."""
    grid_1NC = positions_1NC[:, prefix:]
    old = isqrt(grid_1NC.shape[1])
    resized_1CHW = resize_map(grid_1NC.reshape(1, old, old, -1).permute(0, 3, 1, 2), side)
    resized_1NC = resized_1CHW.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    return torch.cat([positions_1NC[:, :prefix], resized_1NC], dim=1)


def resize_map(positions_1CHW: Tensor, side: int) -> Tensor:
    """A square map of positions to one of another side."""
    return F.interpolate(positions_1CHW, size=(side, side), mode="bicubic", antialias=True)
