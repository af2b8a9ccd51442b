"""Networks inside timm models as timm knows them: names of tensors, plain configurations, configurations by layer."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces import Architecture
from search_spaces.timm_models import MERGED, SIDE, TOKENS, TimmBlock, TimmModelError, TimmReference, TimmSpace
from supernets.family import build_network
from supernets.timm_models.chain import arguments_of, chain_of, create
from supernets.timm_models.merging import Merging

SHELLS = ("stem", "head")


def to_timm_names(state: Mapping[str, Tensor], names: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """The tensors of a chain by the names that they have in the timm model.

    Args:
        state: By name in the chain.
        names: Names of blocks that have another number in the network, as `renumbered` gives them.
    """
    return {_timm_name(name, names or {}): tensor for name, tensor in state.items()}


def from_timm_names(state: Mapping[str, Tensor], chain: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a timm model by their names in the chain; unknown ones keep theirs."""
    names = {_timm_name(name, {}): name for name in chain}
    return {names.get(name, name): tensor for name, tensor in state.items()}


def renumbered(space: TimmSpace, architecture: Architecture) -> dict[str, str]:
    """``{name in the model: name in the network}`` of the blocks in lists that lose some, which are counted anew."""
    shortened = {part.name.rpartition(".")[0] for part in space.outline.parts if part.removable}
    counts: dict[str, int] = {}
    names = {}
    for name, _ in space.blocks(architecture):
        container = name.rpartition(".")[0]
        if container in shortened:
            names[name] = f"{container}.{counts.get(container, 0)}"
            counts[container] = counts.get(container, 0) + 1
    return names


def timm_state_dict(space: TimmSpace, architecture: Architecture, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of an extracted network by the names that they have in the timm model of its size."""
    state = to_timm_names(network.state_dict(), renumbered(space, architecture))
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def subnet_config(space: TimmSpace, architecture: Architecture) -> dict[str, Any]:
    """What ``timm_subnet.build_subnet`` needs to rebuild the network with torch and timm alone, ready for JSON.

    The file is `supernets.networks.timm_subnet`; the weights are those of `timm_state_dict`.
    """
    values = dict(architecture.settings)
    reference = space.outline.reference
    chain = chain_of(space.reference(values).model, values[SIDE], space.classes)
    names = renumbered(space, architecture)
    keep: dict[str, list[int]] = {}
    for name in names:
        container, _, number = name.rpartition(".")
        keep.setdefault(container, []).append(int(number))
    attributes: dict[str, dict[str, Any]] = {}
    constants: dict[str, int] = {}
    for name, spec in _blocks(space, architecture):
        table = chain.parts[name].table
        if isinstance(table.module, Merging):
            continue
        narrowed = table.resize(copy.deepcopy(table.module), dict(spec.sizes))
        root = "" if name in SHELLS else names.get(name, name)
        for path, module in narrowed.named_modules():
            full = table.module.get_submodule(path)
            where = f"{root}.{path}".strip(".")
            before, after = _sizes_in(full), _sizes_in(module)
            if before != after:
                attributes[where] = {key: value for key, value in after.items() if before.get(key) != value}
            for key in module._non_persistent_buffers_set:
                old, new = full._buffers.get(key), module._buffers.get(key)
                if old is not None and new is not None and old.shape != new.shape:
                    constants[f"{where}.{key}"] = new.shape[0]
    merging = _merging(space, architecture)
    return {
        **({"merging": merging} if merging else {}),
        "model": reference.name,
        "arguments": _arguments(space, values) | {"num_classes": space.classes},
        "keep": keep,
        "attributes": attributes,
        "constants": constants,
        "timm": chain.oldest_timm,
    }


def plain_timm_config(space: TimmSpace, architecture: Architecture) -> dict[str, Any] | None:
    """``{"architecture": NAME, "model_args": {...}}`` of a plain timm model that is the network; None where none is.

    Plain models have blocks of one size, whose heads make up the width. The configuration is tried on the meta device:
    all tensors must have the network's names and shapes.
    """
    values = dict(architecture.settings)
    if values.get(TOKENS):
        return None
    reference = space.outline.reference
    kept = space.kept_blocks(architecture)
    blocks = [
        {axis: size for axis, size in spec.sizes if axis != MERGED}
        for name, spec in _blocks(space, architecture)
        if name in kept
    ]
    if architecture == space.largest:
        whole = arguments_of(reference, None)
        return {"architecture": reference.name, "model_args": whole, "num_classes": space.classes}
    if not blocks or any(block != blocks[0] for block in blocks) or "embed" not in blocks[0]:
        return None
    chain = chain_of(space.reference(values).model, values[SIDE], space.classes)
    active = chain.parts[kept[0]].table.active(blocks[0])
    if "head" not in active:
        return None
    names = renumbered(space, architecture)
    with torch.device("meta"):
        network = build_network(space, architecture)
    wanted = {name: tuple(tensor.shape) for name, tensor in to_timm_names(network.state_dict(), names).items()}
    width, hidden = active["embed"], active.get("hidden", 0)
    common = _arguments(space, values) | {"embed_dim": width, "depth": len(blocks)}
    for rows, share in product((hidden, 2 * hidden, hidden * 3 / 2), (0.0, 0.5)):
        arguments = common | {"num_heads": active["head"] * active.get("group", 1), "mlp_ratio": (rows + share) / width}
        if _shapes(reference, arguments, space.classes) == wanted:
            return {"architecture": reference.name, "model_args": arguments, "num_classes": space.classes}
    return None


def _merging(space: TimmSpace, architecture: Architecture) -> dict[str, Any] | None:
    """Arguments of ``timm_subnet.MergingBlocks``; None where no tokens are merged."""
    before: list[int] = []
    prefix = merged = blocks = 0
    for name, spec in _blocks(space, architecture):
        module = chain_of(spec.model, spec.side, spec.classes).parts[name].table.module
        if isinstance(module, Merging):
            before.append(blocks)
            prefix, merged = module.prefix, dict(spec.sizes)[MERGED]
        blocks += name not in SHELLS and not isinstance(module, Merging)
    return {"before": before, "merged": merged, "prefix": prefix} if merged else None


def _blocks(space: TimmSpace, architecture: Architecture) -> Iterator[tuple[str, TimmBlock]]:
    for name, spec in space.blocks(architecture):
        assert isinstance(spec, TimmBlock)
        yield name, spec


def _shapes(reference: TimmReference, arguments: Mapping[str, Any], classes: int) -> dict[str, tuple[int, ...]] | None:
    try:
        with torch.device("meta"):
            model = create(TimmReference(reference.name), None, classes, **arguments)
    except TimmModelError:
        return None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _arguments(space: TimmSpace, values: Mapping[str, int]) -> dict[str, Any]:
    own_side = chain_of(space.outline.reference.model, None, space.classes).side
    return arguments_of(space.reference(values), values[SIDE] if values[SIDE] != own_side else None)


def _sizes_in(module: nn.Module) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, (int, float, tuple)) and name not in ("training", MERGED)
    }


def _timm_name(name: str, names: Mapping[str, str]) -> str:
    first, _, rest = name.partition(".")
    if first in SHELLS:
        return rest
    for old, new in names.items():
        if name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name
