"""Progressive tokenisation: the blocks of an As-ViT network on coarser patches, with the same weights.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921, whose overview
figure gives, for a patch kernel of 4, strides of 16, 8 and 4 with dilations of 5, 2 and 1, costing 13.2, 28.5 and 100 %
of the full MACs. What the figure leaves open is chosen here:

- dilation: the largest with which the kernel spans no more patches than at full resolution: 5, 2, 1 for a kernel of 4
  as in the figure; 4, 2, 1 for one of 8;
- maps: the first re-embedding that would go below the last stage's full side keeps its side, the others halve. For 224
  pixels sides are 14-7-7-4, then 28-14-7-7, then 56-28-14-7. Halving everywhere would cost 5.6 and 21 % of the Large
  network's MACs, never going below 7 about 20 % in the first phase; this costs 13.3 and 27.8 %;
- splits: as many of them as divide the coarse map, so that a window there is a whole number of full windows;
- position embedding: each coarse token gets the mean over the positions that it covers, so that all of them learn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import gcd

from search_spaces.asvit_blocks import AsvitBlock, Head, PatchEmbed, Reembed, WindowLayer


def coarse_blocks(blocks: Iterable[tuple[str, AsvitBlock]], patch_stride: int) -> Iterator[tuple[str, AsvitBlock]]:
    """The blocks of a network whose patches are ``patch_stride`` times as far apart; 1 changes nothing.

    Args:
        blocks: Named blocks from input to output.
        patch_stride: 1 or more.
    """
    listed = list(blocks)
    smallest = min(block.side for _, block in listed if isinstance(block, Head))
    side, may_keep = 0, patch_stride > 1
    for name, block in listed:
        if isinstance(block, PatchEmbed):
            stride, dilation = block.stride * patch_stride, coarse_dilation(block.kernel, patch_stride)
            block = replace(block, stride=stride, dilation=dilation)
            side = block.out_side
        elif isinstance(block, Reembed):
            block = replace(block, side=side)
            if may_keep and block.out_side < smallest:
                block, may_keep = replace(block, stride=1), False
            side = block.out_side
        elif isinstance(block, WindowLayer):
            block = replace(block, side=side, splits=gcd(block.splits, side))
        else:
            block = replace(block, side=side)
        yield name, block


def coarse_dilation(kernel: int, patch_stride: int) -> int:
    """The largest dilation with which ``kernel`` taps span at most ``patch_stride`` times as many pixels."""
    return max(1, (kernel * patch_stride - 1) // (kernel - 1)) if kernel > 1 else 1
