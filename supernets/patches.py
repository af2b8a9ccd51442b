"""Convolutions of larger patches, resampled from the shared one.

A resampled kernel gives of an enlarged patch what the shared one gives of the patch itself: kernels are multiplied by
the pseudo-inverse of the interpolation. Source: Beyer et al., "FlexiViT: One Model for All Patch Sizes", CVPR 2023,
arXiv 2212.08013. The matrix is timm's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from supernets.axes import RESAMPLE, Narrowing, make_slicing, parse_axes


@dataclass(frozen=True)
class Resampling(Narrowing):
    """How a shared kernel ``(embed, colours, side, side)`` becomes that of larger patches.

    Attributes:
        side: Side of the subnet's patches in pixels.
    """

    side: int = 0

    def narrow(self, shared: Tensor) -> Tensor:
        """The subnet's tensor; a copy."""
        return _times(self.region(shared), self._matrix(shared)).reshape(self.shape)

    def accumulate(self, shared_gradient: Tensor, gradient: Tensor) -> None:
        """Add a subnet tensor's gradient into the shared one, back through the resampling."""
        back = _times(gradient, self._matrix(gradient).T)
        self.region(shared_gradient).add_(back.reshape(self.region_shape))

    def _matrix(self, like: Tensor) -> Tensor:
        return _resampling_matrix(self.region_shape[-1], self.side, like.device, like.dtype)


def make_resampling(
    description: str, shape: tuple[int, ...], full: Mapping[str, int], active: Mapping[str, int]
) -> Narrowing:
    """Plan the resampling of a kernel, whose last two axes are ``AXIS:resample``.

    Args:
        description: The kernel's axes.
        shape: The shared kernel's shape.
        full: Size of each named axis in the shared kernel.
        active: Size of each named axis in the subnet.

    Raises:
        ValueError: Description and shape do not fit.
    """
    *_, (axis,), (last,) = parse_axes(description)
    if axis != last or full[axis.name] != shape[-1] or shape[-1] != shape[-2]:
        raise ValueError(f"axes `{description}`: expected two last axes of {full[axis.name]}, found shape {shape}")
    whole = make_slicing(description.replace(f"{axis.name}:{RESAMPLE}", "."), shape, full, active)
    side = active[axis.name]
    if side == full[axis.name]:
        return whole
    return Resampling(whole.split_shape, whole.slices, whole.region_shape, (*whole.shape[:-2], side, side), side)


def _times(kernels: Tensor, matrix: Tensor) -> Tensor:
    """Kernels ``(embed, colours, side, side)`` times a matrix, in full precision."""
    with torch.autocast(kernels.device.type, enabled=False):
        return kernels.flatten(2) @ matrix


@lru_cache(maxsize=64)
def _resampling_matrix(old: int, new: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What turns flattened kernels of one side into those of another, ``(old * old, new * new)``."""
    from timm.layers.patch_embed import resample_patch_embed

    with torch.inference_mode(False), torch.no_grad():
        units = torch.eye(old * old, device="cpu").view(old * old, 1, old, old)
        resampled: Tensor = resample_patch_embed(units, [new, new])
        return resampled.flatten(1).to(device, dtype)
