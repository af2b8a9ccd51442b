"""Position embeddings of smaller grids, interpolated from the shared one.

The interpolation is timm's: prefix tokens keep their embedding, the grid is resized with bicubic interpolation and
anti-aliasing, which is linear in the shared tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.axes import RESIZE, Narrowing, make_narrowing, parse_axes


@dataclass(frozen=True)
class Resizing(Narrowing):
    """How shared positions ``(1, prefix + side * side, embed)`` become those of a smaller grid.

    Attributes:
        prefix: Number of leading tokens that belong to no place in the grid.
        side: Of the subnet's grid.
    """

    prefix: int = 0
    side: int = 0

    def narrow(self, shared: Tensor) -> Tensor:
        """The subnet's tensor; a copy."""
        return resize_positions(self.region(shared), self.prefix, self.side)

    def accumulate(self, shared_gradient: Tensor, gradient: Tensor) -> None:
        """Add a subnet tensor's gradient into the shared one, back through the interpolation."""
        region = self.region(shared_gradient)
        with torch.enable_grad():
            probe = torch.zeros_like(region, requires_grad=True)
            resized = resize_positions(probe, self.prefix, self.side)
        region.add_(torch.autograd.grad(resized, probe, gradient)[0])


def make_resizing(
    description: str, shape: tuple[int, ...], full: Mapping[str, int], active: Mapping[str, int]
) -> Narrowing:
    """Plan the narrowing of a tensor of positions.

    Args:
        description: The tensor's axes: three dimensions, of which the second is ``AXIS:resize``.
        shape: The shared tensor's shape.
        full: Size of each named axis in the shared tensor, and ``AXIS.prefix``, the number of prefix tokens.
        active: Size of each named axis in the subnet.

    Raises:
        ValueError: Description and shape do not fit, or a grid is not square.
    """
    dimensions = parse_axes(description)
    if len(dimensions) != 3 or [axis.mode for axis in dimensions[1]] != [RESIZE]:
        raise ValueError(f"axes `{description}`: expected three dimensions, the second one of positions alone")
    axis = dimensions[1][0].name
    prefix = full[f"{axis}.prefix"]
    sides = [isqrt(sizes[axis] - prefix) for sizes in (full, active)]
    for sizes, side in zip((full, active), sides, strict=True):
        if side * side + prefix != sizes[axis]:
            raise ValueError(f"axes `{description}`: {sizes[axis]} positions with {prefix} prefix tokens are no square")
    if full[axis] != shape[1]:
        raise ValueError(f"axes `{description}`: {full[axis]} positions, the tensor has shape {shape}")
    whole = make_narrowing(description.replace(f"{axis}:{RESIZE}", "."), shape, full, active)
    if active[axis] == full[axis]:
        return whole
    resized = (*whole.shape[:1], active[axis], *whole.shape[2:])
    return Resizing(whole.split_shape, whole.slices, whole.region_shape, resized, prefix, sides[1])


def resize_positions(positions_1NC: Tensor, prefix: int, side: int) -> Tensor:
    """Positions of a square grid to one of another side; the first ``prefix`` tokens are kept."""
    grid_1NC = positions_1NC[:, prefix:]
    old = isqrt(grid_1NC.shape[1])
    grid_1CHW = grid_1NC.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized_1CHW = F.interpolate(grid_1CHW, size=(side, side), mode="bicubic", antialias=True)
    resized_1NC = resized_1CHW.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    return torch.cat([positions_1NC[:, :prefix], resized_1NC], dim=1)
