"""A network that looks at an image at several scales. This file needs torch alone.

Each scale s is cut into s x s tiles of the network's own side, which the same weights look at; features are averaged
over the tiles of a scale, and those of all scales stand side by side.

Source: Shi et al., "When Do We Not Need Larger Vision Models?", ECCV 2024, arXiv 2403.13043 (S2). For what is told of
a whole image their maps of features come to these averages. Tiles are looked at one after another.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, T tiles, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def tiles_of(x_BCHW: Tensor, side: int) -> list[Tensor]:
    """An image as its tiles, row by row.

    Args:
        x_BCHW: Images whose side is a multiple of ``side``.
        side: Side of a tile in pixels.
    """
    return [tile for rows in torch.split(x_BCHW, side, dim=2) for tile in torch.split(rows, side, dim=3)]


def merged(tiles: Sequence[Tensor]) -> Tensor:
    """Maps of tiles, row by row, as one map ``(B, C, H, W)``: the inverse of `tiles_of`."""
    count = round(len(tiles) ** 0.5)
    rows = [torch.cat(list(tiles[start : start + count]), dim=3) for start in range(0, len(tiles), count)]
    return torch.cat(rows, dim=2)


class InputScales(nn.Module):
    """A network at several scales, with one classifier of all features.

    Args:
        network: Images ``(B, 3, side, side)`` to features ``(B, D)``.
        side: Side of its images in pixels.
        scales: Scales in ascending order; images come at the largest.
        classifier: Features of all scales to logits ``(B, K)``; an identity where the network gives logits itself.
    """

    def __init__(self, network: nn.Module, side: int, scales: Sequence[int], classifier: nn.Module) -> None:
        super().__init__()
        self.network, self.side, self.scales = network, side, tuple(scales)
        self.classifier = classifier

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Features of all scales side by side; images have the side of the largest scale."""
        seen = []
        for scale in self.scales:
            tiles = [self.network(tile) for tile in tiles_of(self._at(x_BCHW, scale), self.side)]
            seen.append(torch.stack(tiles).mean(dim=0) if len(tiles) > 1 else tiles[0])
        return torch.cat(seen, dim=1) if len(seen) > 1 else seen[0]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        logits_BK: Tensor = self.classifier(self.features(x_BCHW))
        return logits_BK

    def _at(self, x_BCHW: Tensor, scale: int) -> Tensor:
        largest = self.scales[-1]
        if scale == largest:
            return x_BCHW
        if largest % scale == 0:
            return F.avg_pool2d(x_BCHW, largest // scale)
        return F.interpolate(x_BCHW, size=scale * self.side, mode="bilinear", align_corners=False)
