"""Narrower attention heads: queries are scaled by what the attention then divides by less.

Attention divides the products of queries and keys by the root of the width of a head. A head that keeps r of d channels
would divide by the root of r, so that its queries take the factor sqrt(r / d), and the products keep their size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from torch import Tensor

from supernets.axes import ROOTED, Narrowing, make_slicing, parse_axes


@dataclass(frozen=True)
class Scaling(Narrowing):
    """How shared rows of queries, keys and values become those of narrower heads.

    Attributes:
        place: Dimension, axes apart, that tells queries, which come first, from keys and values.
        factor: What queries are multiplied by.
    """

    place: int = 0
    factor: float = 1.0

    def narrow(self, shared: Tensor) -> Tensor:
        """The subnet's tensor; a copy."""
        return self._scaled(self.region(shared)).reshape(self.shape)

    def accumulate(self, shared_gradient: Tensor, gradient: Tensor) -> None:
        """Add a subnet tensor's gradient into the active part of the shared one."""
        self.region(shared_gradient).add_(self._scaled(gradient.view(self.region_shape)))

    def _scaled(self, region: Tensor) -> Tensor:
        factors = region.new_ones(region.shape[self.place])
        factors[0] = self.factor
        return region * factors.view(-1, *[1] * (region.ndim - self.place - 1))


def make_scaling(
    description: str, shape: tuple[int, ...], full: Mapping[str, int], active: Mapping[str, int]
) -> Narrowing:
    """Plan the narrowing of rows of queries, keys and values, merged as ``(three ... width:rooted)``.

    Args:
        description: The tensor's axes.
        shape: The shared tensor's shape.
        full: Size of each named axis in the shared tensor.
        active: Size of each named axis in the subnet.

    Raises:
        ValueError: Description and shape do not fit, or an active size exceeds the full one.
    """
    plain = make_slicing(description, shape, full, active)
    place = 0
    for axes in parse_axes(description):
        rooted = [axis.name for axis in axes if axis.mode == ROOTED]
        if rooted:
            factor = sqrt(active[rooted[0]] / full[rooted[0]])
            if factor == 1:
                return plain
            return Scaling(plain.split_shape, plain.slices, plain.region_shape, plain.shape, place, factor)
        place += len(axes)
    raise ValueError(f"axes `{description}`: no axis is `{ROOTED}`")
