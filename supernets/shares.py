"""A batch divided among the architectures of a step: group ``g`` of ``G`` has the images ``g::G``.

Groups are interleaved because what the halves of a batch look like may differ, see `supernets.training.token_mixing`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from supernets.errors import SupernetError
from supernets.sampling.policy import Assignment
from supernets.token_logits import TokenLogits

Output = Tensor | TokenLogits
"""Logits ``(B, K)``, or in training mode those of image and patches where the network has a patch classifier."""


def check_shares(assignments: Sequence[Assignment], images: int) -> None:
    """Make sure that every image of a batch belongs to exactly one assignment, and each has some.

    Raises:
        SupernetError: It is not so.
    """
    shares = [(share.index, share.count) if (share := a.share) else (0, 1) for a in assignments]
    if shares != [(index, len(assignments)) for index in range(len(assignments))]:
        raise SupernetError(f"shares of a batch: found {shares}, expected index and count of {len(assignments)} groups")
    if images < len(assignments):
        raise SupernetError(
            f"a batch of {images} images for {len(assignments)} architectures: expected an image for each at least",
            hint="train on larger batches, or on fewer architectures per step",
        )


def in_batch_order(parts: Sequence[Output]) -> Output:
    """The outputs of all images from those of the groups; the first groups may have one image more."""
    if isinstance(parts[0], TokenLogits):
        fields = zip(*(part for part in parts if isinstance(part, TokenLogits)), strict=True)
        return TokenLogits(*(_interleaved(field) for field in fields))
    return _interleaved([part for part in parts if isinstance(part, Tensor)])


def _interleaved(parts: Sequence[Tensor]) -> Tensor:
    rounds = len(parts[-1])
    body = torch.stack([part[:rounds] for part in parts], dim=1).flatten(0, 1)
    return torch.cat([body, *(part[rounds:] for part in parts)])
