"""Parts of vision transformers in which patches may have been merged, see `supernets.networks.timm_subnet`.

Where they have, a channel behind the others of a token says how many patches it stands for. Networks that merge none
are timm's own blocks.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.timm_models import MERGED, TOKENS
from supernets.networks.timm_subnet import merge_tokens, with_sizes, without_sizes
from supernets.timm_models.parts import Elastic
from supernets.timm_models.tables import AxesTable

PLACES = 4
"""In front of so many blocks tokens are merged, in the first two thirds of the model."""


class Merging(nn.Module):
    """Merges patches, or nothing while ``merged`` is 0.

    Args:
        merges: How many times tokens are merged in front of it.
        prefix: Tokens in front of the patches, which stay as they are.
    """

    def __init__(self, merges: int, prefix: int) -> None:
        super().__init__()
        self.merges, self.prefix, self.merged = merges, prefix, 0

    def forward(self, x_BNE: Tensor) -> Tensor:
        """Tokens, with their sizes where some were merged before, to fewer tokens with their sizes."""
        if not self.merged:
            return x_BNE
        return merge_tokens(x_BNE if self.merges else with_sizes(x_BNE), self.merged, self.prefix)


def places_of(blocks: int) -> tuple[int, ...]:
    """Numbers of the blocks in front of which tokens are merged."""
    return tuple(sorted({max(1, round(blocks * place / (1.5 * PLACES))) for place in range(1, PLACES + 1)} - {blocks}))


def merged_values(patches: int, places: int) -> tuple[int, ...]:
    """Up to four numbers of patches to merge each time, from most to none: half of them at most the last time."""
    most = most_merged(patches, places)
    return (*sorted({most, most * 2 // 3, most // 3} - {0}, reverse=True), 0)


def most_merged(patches: int, places: int) -> int:
    """How many patches can be merged each time, so that as many again are left to merge them into."""
    return patches // (places + 1)


def may_be_merged(table: AxesTable, merges: int, values: tuple[int, ...], *, is_head: bool = False) -> Elastic:
    """Let a part take tokens that were merged; gives what is searched.

    Args:
        table: The part's table, which is changed.
        merges: How many times tokens are merged in front of it.
        values: Values of the choice.
        is_head: Whether the part drops the sizes of its tokens.
    """
    if not isinstance(table.module, Merging):
        module: Any = table.module
        module.__class__ = _sized_class(type(module), is_head)  # type: ignore[arg-type]
        module.merges, module.merged = merges, 0
    table.sizes[MERGED] = 0
    table.attribute("", merged=MERGED)
    return Elastic(TOKENS, values)


def unmerging(module: Any) -> nn.Module:
    """The module of a part as it is in front of all merging, changed in place."""
    if isinstance(module, Merging):
        module.merges = min(module.merges, 1)
    elif type(module) in _sized:
        module.__class__ = _sized[type(module)]
        del module.merges, module.merged
    assert isinstance(module, nn.Module)
    return module


def merged_shape(shape: tuple[int, ...], merges: int, merged: int) -> tuple[int, ...]:
    """Shape of what flows into a part, batch dimension left out, from that where no tokens are merged."""
    return (shape[0] - merges * merged, shape[1] + 1) if merged and merges else shape


_sized: dict[type[nn.Module], type[nn.Module]] = {}
"""timm's own classes, by those that take sizes of tokens."""


@cache
def _sized_class(base: type[nn.Module], is_head: bool) -> type[nn.Module]:
    def forward(self: Any, x_BNE: Tensor) -> Tensor:
        if not self.merged:
            output: Tensor = base.forward(self, x_BNE)
            return output
        x_BNC, bias_B11N = without_sizes(x_BNE)
        if is_head:
            return base.forward(self, x_BNC)  # type: ignore[no-any-return]
        return torch.cat([base.forward(self, x_BNC, attn_mask=bias_B11N), x_BNE[..., -1:]], dim=-1)

    sized = type(base.__name__, (base,), {"forward": forward})
    _sized[sized] = base
    return sized
