"""What one types after a model has been chosen."""

from __future__ import annotations

import shlex

from nas.picking.pick import Pick
from nas.records.network import target_of


def loading(found: Pick) -> str:
    """How the recommended model is loaded."""
    model = found.recommended.model
    return f"timm.create_model({model.name!r}, pretrained=True), on images of {model.image_side} px"


def next_commands(found: Pick) -> list[str]:
    """Where the time of the recommended model goes, and a search inside the best model that can be searched."""
    model, target = found.recommended.model, shlex.quote(found.target)
    network = f"{shlex.quote(model.name)} --image-size {model.image_side}"
    predict = f"nas latency predict {network} --target {target} --kernels"
    inside = found.to_search
    if inside is None:
        return [predict]
    typed = [_limit(found.target, name, upper) for name, upper in found.limits.items()] or ["60%"]
    limits = " ".join(f"--limit {shlex.quote(limit)}" for limit in typed)
    return [predict, f"nas search --model {shlex.quote(inside.model.name)} --data DIR --target {target} {limits}"]


def _limit(target: str, name: str, upper: float) -> str:
    """A limit as it is typed."""
    device = target_of(name)
    if device == target:
        return f"{upper:.15g}ms"
    return f"{name}={upper:.15g}" if device is None else f"{device}={upper:.15g}ms"
