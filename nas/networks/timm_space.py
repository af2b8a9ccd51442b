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
        _by_form.setdefault(form, _traced(chain, model, part, known, merged))
    return _by_form[form]


def _traced(chain: Chain, model: str, part: str, degree: int | None, merged: int) -> SizedOps:
    from latency_tables.trace import trace
    from supernets.timm_models.tables import HEAD, HEAD_WIDTH

    found = chain.parts[part]
    axes = [axis for axis in found.elastic if axis != MERGED]

    def ops_at(sizes: tuple[int, ...]) -> tuple[Op, ...]:
        named = dict(zip(axes, sizes, strict=True)) | ({MERGED: merged} if merged else {})
        module = found.table.resize(copy.deepcopy(found.table.module), named).to("meta")
        return trace(module, chain.flow_shape(part, named), f"{model}: {part}").blocks[0][1]

    values = [found.elastic[axis].values for axis in axes]
    heads = [axes.index(axis) for axis in (HEAD, HEAD_WIDTH) if axis in axes]
    return SizedOps(ops_at, values, degree, [tuple(heads), (0, *heads)] if len(heads) == 2 else ())
