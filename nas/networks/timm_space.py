"""Spaces inside timm models, put together: what a model consists of, and the operators of its parts."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TYPE_CHECKING

from search_spaces.graph import Op
from search_spaces.timm_models import MERGED, MERGING, TimmBlock, TimmReference, TimmSpace, register_lowering
from search_spaces.timm_models_ops import SizedOps

if TYPE_CHECKING:
    from supernets.timm_models.chain import Chain


def timm_space(text: str, classes: int | None = None) -> TimmSpace:
    """The space of the networks inside a timm model; the entry point behind ``get_space("timm:NAME")``.

    Args:
        text: As `search_spaces.timm_models.TimmReference.parse` reads it, for example ``vit_tiny_patch16_224`` or
            ``vit_tiny_patch16_224?img_size=96``.
        classes: To tell apart; None takes the model's own.

    Raises:
        UnknownNameError: timm has no such model.
        TimmModelError: It cannot be made elastic; the message says why.
    """
    from supernets.timm_models import outline_of

    register_lowering(block_ops)
    return TimmSpace(outline_of(TimmReference.parse(text), classes))


def block_ops(block: TimmBlock) -> tuple[Op, ...]:
    """The operators of one part, from traces of the same part at its least and largest sizes."""
    sizes = dict(block.sizes)
    merged = sizes.pop(MERGED, 0)
    return _sized_ops(block.model, block.part, block.side, block.classes, merged)(tuple(sizes.values()))


_by_form: dict[tuple[str, tuple[int, ...], int], SizedOps] = {}
"""Parts that compute the same on as many tokens have the same operators, whatever images and patches these are from."""

_by_tokens: dict[tuple[str, tuple[int, ...], int], dict[int, SizedOps]] = {}
"""Numbers of tokens, `SAMPLES` at most, on which parts of a form were traced at all sizes; they tell of the others."""

SAMPLES = 3


@lru_cache(maxsize=1024)
def _sized_ops(model: str, part: str, side: int, classes: int, merged: int) -> SizedOps:
    from supernets.timm_models import chain_of
    from supernets.timm_models.merging import merged_shape

    chain = chain_of(model, side, classes)
    flow = merged_shape(chain.full_flows[part], chain.parts[part].merges, merged)
    form = chain.forms[part], flow, merged if part.startswith(MERGING) else min(merged, 1)
    if form not in _by_form:
        own = chain_of(model, None, classes).side, merged if part.startswith(MERGING) else 0
        # How the numbers depend on the sizes is the same on every grid.
        known = None if (side, merged) == own else _sized_ops(model, part, own[0], classes, own[1]).degree
        traced = _Traced(chain, model, part, merged)
        if len(flow) == 2 and not part.startswith(MERGING):
            samples = _by_tokens.setdefault((form[0], flow[1:], form[2]), {})
            found = SizedOps.on_tokens(samples, flow[0], traced.ops) if len(samples) == SAMPLES else None
            found = found or traced.sized(known)
            if len(samples) < SAMPLES:
                samples.setdefault(flow[0], found)
        else:
            found = traced.sized(known)
        _by_form.setdefault(form, found)
    return _by_form[form]


class _Traced:
    """Traces of one part at any sizes."""

    def __init__(self, chain: Chain, model: str, part: str, merged: int) -> None:
        self.chain, self.name, self.part = chain, f"{model}: {part}", part
        self.merged = {MERGED: merged} if merged else {}
        self.elastic = {axis: found for axis, found in chain.parts[part].elastic.items() if axis != MERGED}

    def ops(self, sizes: tuple[int, ...]) -> tuple[Op, ...]:
        from latency_tables.trace import trace

        named = dict(zip(self.elastic, sizes, strict=True)) | self.merged
        table = self.chain.parts[self.part].table
        module = table.resize(copy.deepcopy(table.module), named).to("meta")
        return trace(module, self.chain.flow_shape(self.part, named), self.name).blocks[0][1]

    def sized(self, degree: int | None) -> SizedOps:
        from supernets.timm_models.tables import HEAD, HEAD_WIDTH

        axes = list(self.elastic)
        heads = [axes.index(axis) for axis in (HEAD, HEAD_WIDTH) if axis in axes]
        products = [tuple(heads), (0, *heads)] if len(heads) == 2 else ()
        return SizedOps(self.ops, [found.values for found in self.elastic.values()], degree, products)
