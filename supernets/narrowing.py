"""Plans how a shared tensor becomes a subnet's: by slicing, interpolation, resampling, scaled queries, or sections."""

from __future__ import annotations

from collections.abc import Mapping

from supernets.axes import JOINED, RESAMPLE, RESIZE, ROOTED, Narrowing, make_slicing, parse_axes
from supernets.head_width import make_scaling
from supernets.patches import make_resampling
from supernets.positions import make_resizing
from supernets.sections import make_joining


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
    modes = {axis.mode for axes in parse_axes(description) for axis in axes}
    planners = {RESIZE: make_resizing, RESAMPLE: make_resampling, ROOTED: make_scaling, JOINED: make_joining}
    make = next((planner for mode, planner in planners.items() if mode in modes), make_slicing)
    return make(description, shape, full, active)
