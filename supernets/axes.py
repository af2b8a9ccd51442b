"""Shared tensors whose axes have names, and the narrowing that turns them into a subnet's.

An axis description names the dimensions of a tensor in order, for example::

    (head channel) embed . .          a fused projection: rows are heads times channels of a head
    hidden . kernel:centre kernel:centre     a depthwise convolution whose kernel shrinks towards its centre

A name stands for a searchable axis and keeps its first entries; ``:centre`` keeps the middle ones and, where none are
exactly in the middle, the earlier ones, ``:late-centre`` the later ones; ``:resize`` is a grid of positions that is
interpolated, see `supernets.positions`; ``:resample`` is a side of the kernel that makes patches, which may also be
larger than the shared one, see `supernets.patches`; ``:rooted`` is the width of attention heads, whose queries are
scaled, see `supernets.head_width`; ``:packed`` on every axis of a merged dimension keeps the first entries of the
dimension as a whole; ``query+key+value`` is a dimension of sections, each of which keeps its first entries, see
`supernets.sections`; ``.`` is an axis that never changes; parentheses merge several axes into one dimension. Nothing is
masked: the result is a view of the shared tensor, or a copy where merged axes no longer lie in one piece.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod

from torch import Tensor

RESIZE, RESAMPLE, ROOTED, PACKED, JOINED = "resize", "resample", "rooted", "packed", "joined"
MODES = ("centre", "late-centre", RESIZE, RESAMPLE, ROOTED, PACKED)
_DIMENSION = re.compile(r"\(([^)]*)\)|(\S+)")


@dataclass(frozen=True)
class Axis:
    """One named axis.

    Attributes:
        name: Empty for an axis that never changes.
        mode: Which entries are kept; empty for the first ones.
    """

    name: str
    mode: str = ""


@cache
def parse_axes(description: str) -> tuple[tuple[Axis, ...], ...]:
    """The axes of each dimension; a dimension has several where the description merges them."""
    dimensions = []
    for merged, single in _DIMENSION.findall(description):
        if "+" in single:
            dimensions.append(tuple(Axis(name, JOINED) for name in single.split("+")))
            continue
        axes = []
        for word in (merged or single).split():
            name, _, mode = word.partition(":")
            if mode not in ("", *MODES):
                raise ValueError(f"axes `{description}`: unknown mode `{mode}`, expected `{'` or `'.join(MODES)}`")
            axes.append(Axis("" if name == "." else name, mode))
        dimensions.append(tuple(axes))
    return tuple(dimensions)


@dataclass(frozen=True)
class Narrowing:
    """How one shared tensor becomes a subnet's.

    Attributes:
        split_shape: Shape of the shared tensor with merged axes apart.
        slices: The part of each axis that is active.
        region_shape: Shape of that part, axes still apart.
        shape: Shape of the subnet's tensor, axes merged again.
    """

    split_shape: tuple[int, ...]
    slices: tuple[slice, ...]
    region_shape: tuple[int, ...]
    shape: tuple[int, ...]

    def region(self, shared: Tensor) -> Tensor:
        """The active part of ``shared`` as a view, merged axes apart."""
        if shared.requires_grad or not shared.is_contiguous():
            return shared.view(self.split_shape)[self.slices]
        # The same view in one operation: a step borrows hundreds of small tensors, and slicing each would tell.
        return shared.as_strided(self.region_shape, self._strides, shared.storage_offset() + self._offset)

    def narrow(self, shared: Tensor) -> Tensor:
        """The subnet's tensor."""
        region = self.region(shared)
        return region if self.region_shape == self.shape else region.reshape(self.shape)

    def accumulate(self, shared_gradient: Tensor, gradient: Tensor) -> None:
        """Add a subnet tensor's gradient into the active part of the shared one."""
        # Into the region, not into `narrow`'s result: that may be a copy, and the gradient would be lost.
        apart = gradient if self.region_shape == self.shape else gradient.view(self.region_shape)
        self.region(shared_gradient).add_(apart)

    @cached_property
    def _strides(self) -> tuple[int, ...]:
        """Strides of the split axes in a contiguous shared tensor."""
        return tuple(prod(self.split_shape[axis + 1 :]) for axis in range(len(self.split_shape)))

    @cached_property
    def _offset(self) -> int:
        """Offset of the region's first entry in the shared tensor."""
        return sum(part.start * stride for part, stride in zip(self.slices, self._strides, strict=True))


def make_slicing(
    description: str, shape: tuple[int, ...], full: Mapping[str, int], active: Mapping[str, int]
) -> Narrowing:
    """Plan the narrowing of a tensor none of whose axes is interpolated.

    Args:
        description: The tensor's axes.
        shape: The shared tensor's shape.
        full: Size of each named axis in the shared tensor.
        active: Size of each named axis in the subnet.

    Raises:
        ValueError: Description and shape do not fit, or an active size exceeds the full one.
    """
    dimensions = parse_axes(description)
    if len(dimensions) != len(shape):
        raise ValueError(f"axes `{description}` name {len(dimensions)} dimensions, the tensor has shape {shape}")
    split_shape: list[int] = []
    slices: list[slice] = []
    merged_shape: list[int] = []
    for axes, size in zip(dimensions, shape, strict=True):
        full_sizes = [full[axis.name] if axis.name else size for axis in axes]
        active_sizes = [active[axis.name] if axis.name else size for axis in axes]
        if prod(full_sizes) != size:
            raise ValueError(f"axes `{description}`: sizes {full_sizes} do not make up the dimension of {size}")
        if any(axis.mode == PACKED for axis in axes) and active_sizes != full_sizes:
            axes, full_sizes, active_sizes = (Axis(""),), [size], [prod(active_sizes)]
        split_shape += full_sizes
        merged_shape.append(prod(active_sizes))
        slices += [_active_slice(axis, *sizes) for axis, *sizes in zip(axes, full_sizes, active_sizes, strict=True)]
    region_shape = tuple(part.stop - part.start for part in slices)
    return Narrowing(tuple(split_shape), tuple(slices), region_shape, tuple(merged_shape))


def _active_slice(axis: Axis, full: int, active: int) -> slice:
    if not 0 < active <= full:
        raise ValueError(f"axis `{axis.name}`: active size {active}, expected 1 to {full}")
    start = {"": 0, ROOTED: 0, PACKED: 0, "centre": (full - active) // 2, "late-centre": (full - active + 1) // 2}[
        axis.mode
    ]
    return slice(start, start + active)
