"""Attention with a mask or a bias, as the operators that define it.

Shape letters: N queries, M keys, D channels of a head, E channels of a value; ``...`` images and heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SpeltAttention(TorchFunctionMode):
    """A context in which fused attention with a mask runs as products of matrices and a softmax.

    Calls without a mask, with dropout or with shared keys are left alone.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
            named = dict(zip(names, args, strict=False)) | dict(kwargs or {})
            left = [name for name in ("dropout_p", "is_causal", "enable_gqa") if named.get(name)]
            if named.get("attn_mask") is not None and not left:
                return attention(named["query"], named["key"], named["value"], named["attn_mask"], named.get("scale"))
        return func(*args, **(kwargs or {}))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float | None = None) -> Tensor:
    """Attention ``(..., N, E)`` of queries ``(..., N, D)`` over keys ``(..., M, D)`` and values ``(..., M, E)``.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        mask: Bias that is added to the logits ``(..., N, M)``, or the places that may be looked at where it is boolean.
            A query that may look nowhere gets zeros, as PyTorch's fused attention gives.
        scale: Factor of the logits; None takes one over the root of D.
    """
    logits = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
    if mask.is_floating_point():
        return (logits + mask).softmax(dim=-1) @ value
    weights = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return weights.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0) @ value
