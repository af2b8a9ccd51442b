"""From a reference to the parts of the model, without memory for its weights."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from search_spaces import UnknownNameError
from search_spaces.space import Choice
from search_spaces.timm_models import (
    MERGED,
    PATCH,
    SIDE,
    TOKENS,
    Outline,
    PartOutline,
    TimmModelError,
    TimmReference,
    is_divided,
)
from supernets.narrowing import make_narrowing
from supernets.timm_models.beit import BeitAdapter
from supernets.timm_models.cait import CaitAdapter
from supernets.timm_models.efficientformer import EfficientFormerAdapter
from supernets.timm_models.efficientformer_v2 import EfficientFormerV2Adapter
from supernets.timm_models.eva import EvaAdapter
from supernets.timm_models.levit import LevitAdapter
from supernets.timm_models.merging import merged_shape, most_merged, unmerging
from supernets.timm_models.mobilenet import MobileNetAdapter
from supernets.timm_models.parts import Adapter, Part
from supernets.timm_models.pit import PitAdapter
from supernets.timm_models.plain import plain_depths
from supernets.timm_models.relpos import RelativePositionAdapter
from supernets.timm_models.swin import SwinAdapter
from supernets.timm_models.swin_v2 import SwinV2Adapter
from supernets.timm_models.tables import PATCH_SIDE
from supernets.timm_models.vit import VisionTransformerAdapter
from supernets.timm_models.xcit import XcitAdapter

ADAPTERS: list[Adapter] = [
    VisionTransformerAdapter(),
    EvaAdapter(),
    BeitAdapter(),
    RelativePositionAdapter(),
    CaitAdapter(),
    XcitAdapter(),
    SwinAdapter(),
    SwinV2Adapter(),
    PitAdapter(),
    LevitAdapter(),
    EfficientFormerAdapter(),
    EfficientFormerV2Adapter(),
    MobileNetAdapter(),
]
SIDE_SHARES = (0.625, 0.75, 0.875, 1.0)
LARGEST_PATCH = 2
"""How many times as wide as the model's own patches others may be."""
SIDE_ARGUMENT = "img_size"
DEFAULT_CLASSES = 1000
"""Classes of a model that comes without a classifier, where nobody says how many."""


@dataclass(frozen=True, eq=False)
class Chain:
    """The parts of a model at one side of the image.

    Attributes:
        parts: By name, from input to output; their tensors are on the meta device.
        side: Side of the image in pixels.
        stride: Pixels per step of the grid that positions belong to.
        classes: Number of classes that it tells apart.
        family: Name of the adapter.
        any_side: Whether images of other sides can be searched.
        oldest_timm: The oldest release of timm in which networks of the family compute the same.
    """

    parts: Mapping[str, Part]
    side: int
    stride: int
    classes: int
    family: str
    any_side: bool
    oldest_timm: str

    def flow_shape(self, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of what flows into a part of these sizes, batch dimension left out."""
        part = self.parts[name]
        full = self.full_flows[name]
        shape = make_narrowing(part.flow, full, part.table.sizes, part.table.active(sizes)).shape
        return merged_shape(shape, part.merges, sizes.get(MERGED, 0))

    @property
    def full_flows(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of what flows into each part of the whole model."""
        return _full_flows(self)

    @property
    def forms(self) -> Mapping[str, str]:
        """Text for every part, equal for those that compute the same of as many tokens, training aside."""
        return _forms(self)


def create(reference: TimmReference, side: int | None, classes: int | None, **arguments: Any) -> nn.Module:
    """The model as timm makes it, on the default device.

    Args:
        reference: The model.
        side: Side in pixels of the image; None takes the model's own.
        classes: Number of classes to tell apart; None takes the model's own.
        arguments: Further ones of ``timm.create_model``.

    Raises:
        UnknownNameError: timm has no such model.
        TimmModelError: It does not take these arguments.
    """
    import timm

    if not timm.is_model(reference.name):
        raise UnknownNameError("timm model", reference.name, timm.list_models())
    given = arguments if classes is None else {**arguments, "num_classes": classes}
    try:
        given = arguments_of(reference, side) | given
        model = timm.create_model(reference.name, **given)
    except (TypeError, AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
        described = ", ".join(f"{name}={value}" for name, value in given.items()) or "no arguments"
        raise TimmModelError(
            f"timm model `{reference.name}` cannot be made with {described}: {error}",
            "check the arguments against the constructor of the model's class in timm",
        ) from error
    assert isinstance(model, nn.Module)
    _fill_constants(model)
    if any(buffer.is_meta for buffer in _constants(model).values()):  # the model computes them where its weights are
        with torch.device("cpu"):
            known = _constants(timm.create_model(reference.name, **given))
        for name in _constants(model):
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._buffers[leaf] = known[name]
    return model


def arguments_of(reference: TimmReference, side: int | None) -> dict[str, Any]:
    """Arguments of ``timm.create_model`` for images of a side; a model that takes images of any is not told."""
    given = dict(reference.arguments)
    if side is not None:
        given[SIDE_ARGUMENT] = side
    if SIDE_ARGUMENT in given and not is_told_side(reference.name):
        del given[SIDE_ARGUMENT]
    return given


@lru_cache(maxsize=64)
def chain_of(model: str, side: int | None = None, classes: int | None = None) -> Chain:
    """The chain of a model without memory for its weights.

    Args:
        model: A `TimmReference.model`.
        side: Side in pixels of the image; None takes the model's own.
        classes: Number of classes to tell apart; None takes the model's own.

    Raises:
        UnknownNameError: timm has no such model.
        TimmModelError: It cannot be made elastic; the message says why.
    """
    reference = TimmReference.parse(model)
    with torch.device("meta"):
        whole = create(reference, side, classes)
        if classes is None and not getattr(whole, "num_classes", 0):
            whole = create(reference, side, DEFAULT_CLASSES)
        adapter = adapter_of(whole, reference)
        own_side = side or _side(whole, reference)
        stride, found_classes = _stride(whole, own_side), int(whole.num_classes)  # type: ignore[arg-type]
        parts = split(adapter, whole, reference)
    by_name = {part.name: part for part in parts}
    facts = adapter.family, adapter.any_side, adapter.oldest_timm
    return Chain(by_name, own_side, stride, found_classes, *facts)


def adapter_of(model: nn.Module, reference: TimmReference) -> Adapter:
    """The adapter of a model.

    Raises:
        TimmModelError: None claims it.
    """
    for adapter in ADAPTERS:
        if adapter.claims(model):
            return adapter
    families = ", ".join(adapter.family for adapter in ADAPTERS)
    raise TimmModelError(
        f"timm model `{reference.name}` is a `{type(model).__name__}`, which no adapter knows",
        f"known families: {families}",
    )


def split(adapter: Adapter, model: nn.Module, reference: TimmReference) -> list[Part]:
    """The parts of a model, which is taken apart.

    Raises:
        TimmModelError: Something in it cannot be made elastic.
    """
    try:
        return adapter.parts(model)
    except (TimmModelError, AttributeError) as error:
        raise TimmModelError(f"timm model `{reference.name}` cannot be made elastic: {error}") from error


def outline_of(reference: TimmReference, classes: int | None = None) -> Outline:
    """What is searchable in a model.

    Raises:
        UnknownNameError: timm has no such model.
        TimmModelError: It cannot be made elastic; the message says why.
    """
    chain = chain_of(reference.model, None, classes)
    _check_runs(reference, chain)
    sides = _sides(reference, chain)
    patches = _patches(reference, chain, sides)
    choices = {SIDE: sides} | ({PATCH: patches} if patches else {})
    parts = list(chain.parts.values())
    merges = parts[-1].merges
    if merges:
        choices[TOKENS] = parts[-1].elastic[MERGED].values
    own: dict[str, tuple[int, ...]] = {}
    for part in parts:
        for elastic in part.elastic.values():
            (own if part.removable and elastic.choice.startswith(f"{part.name}.") else choices)[elastic.choice] = (
                elastic.values
            )
    if merges and not reference.merges:
        choices[TOKENS] = (0,)
    choices |= plain_depths(parts) | own
    first: dict[str, str] = {}
    outlines = []
    for part in parts:
        same_as = first.setdefault(_fingerprint(part, part.table.module), part.name)
        axes = tuple((axis, elastic.choice) for axis, elastic in part.elastic.items())
        outlines.append(PartOutline(part.name, same_as, axes, part.removable))
    fixed = tuple(note for part in parts for note in part.notes)
    if len(sides) == 1:
        fixed = ("input side and patches: its positions belong to one grid of patches", *fixed)
    elif PATCH_SIDE not in chain.parts["stem"].table.sizes:
        fixed = ("patches: more than one convolution makes them", *fixed)
    listed = tuple(Choice(name, values) for name, values in choices.items())
    most = {side: most_merged((side // chain.stride) ** 2, merges) for side in sides if merges}
    return Outline(reference, listed, tuple(outlines), chain.classes, fixed, chain.family, most)


def _check_runs(reference: TimmReference, chain: Chain) -> None:
    """Make sure that the model takes its images; some say that they do not only when they see them."""
    try:
        _full_flows(chain)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise TimmModelError(
            f"timm model `{reference.text}` does not run on images of {chain.side} x {chain.side} pixels: {error}",
            "give another side, or none for the model's own",
        ) from error


def _sides(reference: TimmReference, chain: Chain) -> tuple[int, ...]:
    if not chain.any_side:
        return (chain.side,)
    grid = chain.side // chain.stride
    steps = {max(1, round(grid * share)) * chain.stride for share in SIDE_SHARES}
    return (*sorted(side for side in steps if side < chain.side), chain.side)


def _patches(reference: TimmReference, chain: Chain, sides: tuple[int, ...]) -> tuple[int, ...]:
    """Sides of patches, descending to the model's own; none where there is no other.

    Patches divide the largest side of the image; where none do, smaller ones.
    """
    own = chain.parts["stem"].table.sizes.get(PATCH_SIDE, 0)
    larger = range(LARGEST_PATCH * own, own, -1) if chain.any_side else ()
    for asked in (sides[-1:], sides):
        found = tuple(patch for patch in larger if any(is_divided(side, patch) for side in asked))
        if found:
            return (*found, own) if _takes_patches(reference, chain, found[0]) else ()
    return ()


def _takes_patches(reference: TimmReference, chain: Chain, patch: int) -> bool:
    """Whether the constructor of a model has an argument for the side of patches."""
    try:
        other = chain_of(reference.on_patches(patch).model, None, chain.classes)
    except TimmModelError:
        return False
    return other.parts["stem"].table.sizes.get(PATCH_SIDE) == patch


@lru_cache(maxsize=64)
def is_told_side(name: str) -> bool:
    """Whether the constructor of a model has an argument for the side of the image."""
    import timm

    with torch.device("meta"):
        bases = type(timm.create_model(name)).__mro__
    return any(SIDE_ARGUMENT in inspect.signature(base).parameters for base in bases if base is not object)


def _side(model: Any, reference: TimmReference) -> int:
    embedding = getattr(model, "patch_embed", None)
    given = dict(reference.arguments).get(SIDE_ARGUMENT, model.pretrained_cfg["input_size"][1:])
    size = getattr(embedding, "img_size", None) or given
    sides = tuple(size) if isinstance(size, (tuple, list)) else (size,)
    if len(set(sides)) != 1 or not isinstance(sides[0], int) or sides[0] < 1:
        found = " x ".join(map(str, sides))
        raise TimmModelError(f"timm model `{reference.name}` takes images of {found} pixels, expected a square")
    return sides[0]


def _stride(model: Any, side: int) -> int:
    embedding = getattr(model, "patch_embed", None)
    overlapping = getattr(embedding, "conv", None)
    if isinstance(overlapping, nn.Conv2d):  # fewer patches than strides fit into the side
        return overlapping.stride[0]
    grid = getattr(embedding, "grid_size", None)
    if grid:
        return side // int(grid[0])
    features = getattr(model, "feature_info", None)
    return int(features[-1]["reduction"]) if features else side


def _fill_constants(model: nn.Module) -> None:
    """Give buffers that are computed and not learned their values, on the CPU, in a model on the meta device."""
    for module in model.modules():
        on_meta = [name for name, buffer in _constants_of(module) if buffer.is_meta]
        if not on_meta or not hasattr(module, "init_non_persistent_buffers"):
            continue
        with torch.device("cpu"):  # models compute them where their weights are
            twin: Any = copy.deepcopy(module).to_empty(device="cpu")
            twin.init_non_persistent_buffers()
        for name in on_meta:
            module._buffers[name] = twin._buffers[name]


def _constants(model: nn.Module) -> dict[str, torch.Tensor]:
    """Buffers that are computed and not learned, by name."""
    return {
        f"{path}.{name}".removeprefix("."): buffer
        for path, module in model.named_modules()
        for name, buffer in _constants_of(module)
    }


def _constants_of(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    names = sorted(module._non_persistent_buffers_set)
    return [(name, buffer) for name in names if (buffer := module._buffers.get(name)) is not None]


@lru_cache(maxsize=64)
def _full_flows(chain: Chain) -> dict[str, tuple[int, ...]]:
    flows = {}
    x = torch.zeros(1, 3, chain.side, chain.side, device="meta")
    with torch.no_grad():
        for name, part in chain.parts.items():
            flows[name] = tuple(x.shape[1:])
            x = _on_meta(part.table.module)(x)
    return flows


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose constants are on the meta device too."""
    return copy.deepcopy(module).to("meta").eval()


@lru_cache(maxsize=64)
def _forms(chain: Chain) -> dict[str, str]:
    forms = {}
    for name, part in chain.parts.items():
        elastic = {axis: found for axis, found in part.elastic.items() if axis != MERGED}
        module = unmerging(_without_dropping(part.table.module))
        forms[name] = _fingerprint(replace(part, elastic=elastic), module)
    return forms


def _without_dropping(module: nn.Module) -> nn.Module:
    """A copy in which nothing is dropped in training."""
    again = copy.deepcopy(module)
    for parent in list(again.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout) or type(child).__name__ == "DropPath":
                setattr(parent, name, nn.Identity())
    return again


def _fingerprint(part: Part, module: nn.Module) -> str:
    """Equal for parts that are the same module at every size."""
    digest = hashlib.sha256(repr((type(module), str(module), part.flow, part.removable)).encode())
    digest.update(repr([(axis, elastic.values) for axis, elastic in part.elastic.items()]).encode())
    for path, layer in module.named_modules():
        plain = {k: v for k, v in vars(layer).items() if isinstance(v, (int, float, str, tuple)) and k != "training"}
        digest.update(repr((path, sorted(plain.items(), key=lambda item: item[0]))).encode())
    for name, tensor in module.state_dict(keep_vars=True).items():
        digest.update(repr((name, tuple(tensor.shape))).encode())
    for name, buffer in module.named_buffers():
        if not buffer.is_meta:
            digest.update(name.encode() + buffer.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
