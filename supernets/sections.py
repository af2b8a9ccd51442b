"""Rows of several sections, the first ones of each, one after another.

Which row of the subnet's tensor a shared row becomes depends on the sizes of all sections, so a prefix of rows in some
fixed order would not do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from supernets.axes import JOINED, Narrowing, make_slicing, parse_axes


@dataclass(frozen=True)
class Joining(Narrowing):
    """How sections of rows become a subnet's.

    Attributes:
        sections: Number of shared rows and of active rows of each section.
    """

    sections: tuple[tuple[int, int], ...] = ()

    def narrow(self, shared: Tensor) -> Tensor:
        """The subnet's tensor; a copy."""
        return torch.cat(list(self._active(self.region(shared))))

    def accumulate(self, shared_gradient: Tensor, gradient: Tensor) -> None:
        """Add a subnet tensor's gradient into the active rows of the shared one."""
        parts = torch.split(gradient, [active for _, active in self.sections])
        for rows, part in zip(self._active(self.region(shared_gradient)), parts, strict=True):
            rows.add_(part)

    def _active(self, rows: Tensor) -> Iterator[Tensor]:
        for section, (_, active) in zip(
            torch.split(rows, [full for full, _ in self.sections]), self.sections, strict=True
        ):
            yield section[:active]


def make_joining(
    description: str, shape: tuple[int, ...], full: Mapping[str, int], active: Mapping[str, int]
) -> Narrowing:
    """Plan the narrowing of a tensor whose rows are sections.

    Args:
        description: The tensor's axes, for example ``query+key+value embed``.
        shape: The shared tensor's shape.
        full: Size of each named axis in the shared tensor.
        active: Size of each named axis in the subnet.

    Raises:
        ValueError: Description and shape do not fit, or dimensions but the first consist of sections.
    """
    sections, *others = parse_axes(description)
    if any(axis.mode == JOINED for axes in others for axis in axes) or sections[0].mode != JOINED:
        raise ValueError(f"axes `{description}`: expected sections in the first dimension alone")
    sizes = tuple((full[axis.name], active[axis.name]) for axis in sections)
    if sum(rows for rows, _ in sizes) != shape[0] or any(not 0 < rows <= most for most, rows in sizes):
        raise ValueError(
            f"axes `{description}`: sections of (shared, active) rows {sizes} in a tensor of shape {shape}"
        )
    rest = make_slicing(f". {description.partition(' ')[2]}", shape, full, active)
    narrowed = (sum(rows for _, rows in sizes), *rest.shape[1:])
    return Joining(rest.split_shape, rest.slices, rest.region_shape, narrowed, sizes)
