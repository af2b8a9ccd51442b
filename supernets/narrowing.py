"""Plans how a shared tensor becomes a subnet's, by slicing or by interpolation."""

from __future__ import annotations

from collections.abc import Mapping

from supernets.axes import RESIZE, Narrowing, make_slicing, parse_axes
from supernets.positions import make_resizing


def make_narrowing(
    description: str, shape: tuple[int, ...], full: Mapping[str, int], active: Mapping[str, int]
) -> Narrowing:
    """Plan the narrowing of a tensor.

    Args:
        description: The tensor's axes, see `supernets.axes`.
        shape: The shared tensor's shape.
        full: Size of each named axis in the shared tensor.
        active: Size of each named axis in the subnet.

    Raises:
        ValueError: Description and shape do not fit, or an active size exceeds the full one.
    """
    is_resized = any(axis.mode == RESIZE for axes in parse_axes(description) for axis in axes)
    return (make_resizing if is_resized else make_slicing)(description, shape, full, active)
