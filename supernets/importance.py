"""What matters most comes first: shared tensors sorted along their named axes, so that prefixes are good networks.

A subnet keeps the first channels, heads and hidden units, and the first blocks of an order. Sorting them by importance
changes nothing in the whole network, which is why it can be done to pretrained weights. Three criteria:

- ``magnitude``: the sum of absolute weights (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv
  1608.08710);
- ``activation``: absolute weights times the size of what they multiply, on calibration images (Sun et al., "A Simple
  and Effective Pruning Approach for Large Language Models", ICLR 2024, arXiv 2306.11695);
- ``taylor``: absolute weight times gradient (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR
  2019, arXiv 1906.10771; here the sum of absolute products, not the square of the sum).

Blocks have criteria of their own: ``magnitude`` is the size of their weights, ``activation`` how far they turn their
input (Men et al., "ShortGPT", 2024, arXiv 2403.03853), ``taylor`` is replaced by the exact figure, the loss without the
block. Which criterion is used is decided axis by axis, by the loss of the networks at the middle size of that axis.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, N tokens, K classes, I inputs of a layer,
M rows (images or tokens).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Architecture, SearchSpace
from search_spaces.timm_models import DEPTH, TimmBlock, TimmModelError, TimmSpace
from supernets.calibration import Calibration
from supernets.rewiring import axis_importance, permute_axis
from supernets.supernet import Supernet
from supernets.timm_models.family import TimmFamily
from supernets.timm_models.loading import reordered

CRITERIA = ("magnitude", "activation", "taylor")
UNSORTED = "none"
EMBED = "embed"
SORTED = ("hidden", "head", EMBED)
"""Kinds of axes, in the order in which they are sorted; blocks come last."""


Importance = Callable[[str, str], Tensor]
"""Importance of every entry of an axis of a part, both by name."""


@dataclass(frozen=True)
class Ordering:
    """A sorted supernet, and how it was decided.

    Attributes:
        supernet: The sorted weights; where the order of blocks changed its space has that order in its name.
        criteria: The criterion of each axis, ``none`` where the given order was the best.
        losses: For every axis and criterion the loss on the calibration images at the middle size of that axis.
    """

    supernet: Supernet
    criteria: Mapping[str, str]
    losses: Mapping[str, Mapping[str, float]]


def sort_by_importance(
    supernet: Supernet,
    images_BCHW: Tensor,
    labels_B: Tensor | None = None,
    criteria: Sequence[str] = CRITERIA,
    calibration: Calibration | None = None,
) -> Ordering:
    """Sort channels, heads, hidden units and blocks of a timm model, each by the criterion that serves it best.

    The whole network computes what it did before.

    Args:
        supernet: Left as it is.
        images_BCHW: Normalised calibration images; some dozens to some hundreds.
        labels_B: Classes of the images; None takes what the whole network says, which asks smaller ones to agree with
            it.
        criteria: Criteria to choose from.
        calibration: What to judge on in place of images and labels; None makes it of these.

    Raises:
        TimmModelError: The supernet is of another kind of space.
        ValueError: There is no such criterion.
    """
    unknown = sorted(set(criteria) - set(CRITERIA))
    if unknown:
        raise ValueError(f"criterion `{unknown[0]}`: expected one of {', '.join(CRITERIA)}")
    if not isinstance(supernet.space, TimmSpace):
        raise TimmModelError(f"space `{supernet.space.name}` is not that of a timm model, whose importance is defined")
    was_training = supernet.training
    supernet.eval()
    calibration = calibration or Calibration.of(supernet, images_BCHW, labels_B)
    chosen: dict[str, str] = {}
    losses: dict[str, dict[str, float]] = {}
    best = supernet
    # Sorting one axis changes no sum along another, so that the weights as they came tell the importance of all.
    importances = {name: importance_of(supernet, name, calibration) for name in criteria}
    for axis in axes_of(supernet):
        candidates = {
            UNSORTED: best,
            **{name: sorted_along(best, axis, name, calibration, importances[name]) for name in criteria},
        }
        losses[axis] = {
            name: calibration.loss(partial(net, architecture=middle_of(net.space, axis)))
            for name, net in candidates.items()
        }
        chosen[axis] = min(losses[axis], key=lambda name: losses[axis][name])
        best = candidates[chosen[axis]]
    supernet.train(was_training)
    supernet.zero_grad(set_to_none=True)
    best = _copy(best) if best is supernet else best
    return Ordering(best.train(was_training), chosen, losses)


def sorted_along(
    supernet: Supernet, axis: str, criterion: str, calibration: Calibration, importance: Importance | None = None
) -> Supernet:
    """A copy of a supernet that is sorted along one axis.

    Args:
        supernet: Supernet of a timm model.
        axis: ``embed``, ``head``, ``hidden`` or ``depth``.
        criterion: One of `CRITERIA`.
        calibration: What importance is judged on.
        importance: Importance of entries by that criterion; None finds out.
    """
    if axis == DEPTH:
        values = block_importance(supernet, criterion, calibration)
        order = sorted(range(len(values)), key=lambda number: -values[number])
        return reordered(supernet, tuple(order))
    again = _copy(supernet)
    importance = importance or importance_of(again, criterion, calibration)
    with torch.no_grad():
        for group in _groups(again)[axis]:
            order_of = torch.stack([importance(name, own) for name, own in group]).sum(dim=0)
            order_of = order_of.argsort(descending=True, stable=True)
            for name, own in group:
                part = part_of(again, name)
                tensors = {key: tensor.detach() for key, tensor in part.module.state_dict().items()}
                permute_axis(tensors, part.axes, part.sizes, own, order_of)
    return again


@dataclass(frozen=True)
class Part:
    """A part of the whole network: its module, the axes of its tensors, their sizes, and which are not to be sorted."""

    module: nn.Module
    axes: Mapping[str, str]
    sizes: Mapping[str, int]
    in_order: set[str]


def part_of(supernet: Supernet, name: str) -> Part:
    """The part of that name."""
    space, family = supernet.space, supernet.family
    assert isinstance(family, TimmFamily)
    spec = space.block(name, dict(space.largest.settings))
    assert isinstance(spec, TimmBlock)
    axes, sizes, in_order = family.axes(spec), family.sizes(spec), family.in_order(spec)
    return Part(supernet.network.get_submodule(name), axes, sizes, in_order)


def _groups(supernet: Supernet) -> dict[str, list[list[tuple[str, str]]]]:
    """What is sorted together, ``(part, axis)``, by kind of axis: widths go through many parts."""
    space = supernet.space
    assert isinstance(space, TimmSpace)
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    fixed: set[tuple[str, str]] = set()
    for outline in space.outline.parts:
        part = part_of(supernet, outline.name)
        searched = dict(outline.axes)
        if "head" in part.sizes and "head" not in searched:
            searched["head"] = f"{outline.name}.heads"  # they follow the width
        for axis, choice in searched.items():
            key = (axis.removeprefix("in_"), choice)
            groups.setdefault(key, []).append((outline.name, axis))
            if axis in part.in_order:
                fixed.add(key)
    kinds: dict[str, list[list[tuple[str, str]]]] = {}
    for key, group in groups.items():
        if key not in fixed and key[0] in SORTED:
            kinds.setdefault(key[0], []).append(group)
    return {kind: kinds[kind] for kind in SORTED if kind in kinds}


def axes_of(supernet: Supernet) -> list[str]:
    """Kinds of axes of a timm model's supernet, in the order in which they are sorted."""
    return [*_groups(supernet), *([DEPTH] if DEPTH in supernet.space.columns else [])]


def middle_of(space: SearchSpace, axis: str) -> Architecture:
    """The largest network but for one kind of axis, which has its middle size everywhere."""
    assert isinstance(space, TimmSpace)
    axes = [(own.removeprefix("in_"), choice) for part in space.outline.parts for own, choice in part.axes]
    wanted = axis if axis == DEPTH or any(own == axis for own, _ in axes) else EMBED
    names = {DEPTH} if axis == DEPTH else {choice for own, choice in axes if own == wanted}
    values = dict(space.largest.settings)
    for choice in space.choices:
        if choice.name in names:
            values[choice.name] = choice.values[(len(choice.values) - 1) // 2]
    probe = Architecture(space.name, space.version, tuple(values.items()))
    return space.decode(space.repair(space.encode([probe])))[0]


def importance_of(supernet: Supernet, criterion: str, calibration: Calibration) -> Importance:
    """Importance of every entry of an axis of a part, both by name; ``taylor`` leaves gradients behind."""
    norms: dict[str, Tensor] = {}
    if criterion == "taylor":
        _accumulate_gradients(supernet, calibration)
    if criterion == "activation":
        norms = {path: sums.squares_I.sqrt() for path, sums in input_sums(supernet, calibration).items()}

    def importance(name: str, axis: str) -> Tensor:
        part = part_of(supernet, name)
        tensors = {key: tensor.detach() for key, tensor in part.module.named_parameters()}
        axes: Mapping[str, str] = part.axes
        if criterion == "taylor":
            learned = part.module.named_parameters()
            tensors = {key: tensor.detach() * tensor.grad for key, tensor in learned if tensor.grad is not None}
        if criterion == "activation":
            tensors, axes = weighted_inputs(name, tensors, axes, norms)
        if not tensors:
            return torch.zeros(part.sizes[axis], device=supernet.device)
        return axis_importance(tensors, axes, part.sizes, axis)

    return importance


def _accumulate_gradients(supernet: Supernet, calibration: Calibration) -> None:
    supernet.zero_grad(set_to_none=True)
    for images_BCHW, targets_BK in calibration.batches():
        loss = calibration.total(supernet.network(images_BCHW), targets_BK)
        loss.backward()  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class InputSums:
    """What flows into a layer, summed over calibration images and tokens, by channel."""

    rows: int
    sum_I: Tensor
    squares_I: Tensor

    def __add__(self, other: InputSums) -> InputSums:
        return InputSums(self.rows + other.rows, self.sum_I + other.sum_I, self.squares_I + other.squares_I)

    @property
    def variance_I(self) -> Tensor:
        """Variance by channel."""
        return (self.squares_I / self.rows - (self.sum_I / self.rows).square()).clamp_min(0)


@torch.no_grad()
def input_sums(supernet: Supernet, calibration: Calibration) -> dict[str, InputSums]:
    """What flows into every dense layer of the whole network, by the layer's path."""
    found: dict[str, InputSums] = {}
    handles = []
    for path, layer in supernet.network.named_modules():
        is_convolution = isinstance(layer, nn.Conv2d) and layer.groups == 1
        if isinstance(layer, nn.Linear) or is_convolution:
            channels = 1 if is_convolution else -1

            def watch(_: nn.Module, inputs: tuple[Tensor, ...], path: str = path, channels: int = channels) -> None:
                x_MI = inputs[0].detach().movedim(channels, -1).flatten(0, -2)
                sums = InputSums(len(x_MI), x_MI.sum(dim=0), x_MI.square().sum(dim=0))
                found[path] = found[path] + sums if path in found else sums

            handles.append(layer.register_forward_pre_hook(watch))
    try:
        for images_BCHW, _ in calibration.batches():
            supernet.network(images_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return found


def weighted_inputs(
    part: str, parameters: Mapping[str, Tensor], axes: Mapping[str, str], sizes: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights of dense layers times the ``sizes`` of their inputs by path, with axes on the inputs only."""
    weighted, words = {}, {}
    for name, weight in parameters.items():
        size_I = sizes.get(f"{part}.{name.removesuffix('.weight')}") if name.endswith(".weight") else None
        if size_I is not None:
            weighted[name] = weight.abs().reshape(*weight.shape[:2], -1).sum(dim=2) * size_I
            words[name] = ". " + re.findall(r"\([^)]*\)|\S+", axes[name])[1]
    return weighted, words


@torch.no_grad()
def block_importance(supernet: Supernet, criterion: str, calibration: Calibration) -> list[float]:
    """Importance of every removable block, in the model's order."""
    space = supernet.space
    assert isinstance(space, TimmSpace)
    names = space.kept_blocks(space.largest)
    if criterion == "magnitude":
        modules = [supernet.network.get_submodule(name) for name in names]
        return [sum(tensor.abs().sum().item() for tensor in module.parameters()) for module in modules]
    if criterion == "activation":
        return _turned_inputs(supernet, names, calibration)
    return _losses_without(supernet, names, calibration)


def _turned_inputs(supernet: Supernet, names: Sequence[str], calibration: Calibration) -> list[float]:
    """One minus the mean cosine between what flows into a block and out of it."""
    totals = dict.fromkeys(names, 0.0)
    handles = []
    for name in names:

        def watch(_: nn.Module, inputs: tuple[Tensor, ...], output_BNC: Tensor, name: str = name) -> None:
            totals[name] += float((1 - F.cosine_similarity(inputs[0], output_BNC, dim=-1)).mean(dim=1).sum())

        handles.append(supernet.network.get_submodule(name).register_forward_hook(watch))
    try:
        for images_BCHW, _ in calibration.batches():
            supernet.network(images_BCHW)
    finally:
        for handle in handles:
            handle.remove()
    return [totals[name] / len(calibration.images_BCHW) for name in names]


def _losses_without(supernet: Supernet, names: Sequence[str], calibration: Calibration) -> list[float]:
    """The loss without each block; what lies before a block is computed once for all."""
    parts = [(slot.name, supernet.network.get_submodule(slot.name)) for slot in supernet.space.slots]
    losses = dict.fromkeys(names, 0.0)
    with calibration.reduced():
        for images_BCHW, targets_BK in calibration.batches():
            x = supernet.family.prepare(images_BCHW, supernet.space.image_side)
            for number, (name, part) in enumerate(parts):
                if name in losses:
                    rest = x
                    for _, later in parts[number + 1 :]:
                        rest = later(rest)
                    losses[name] += calibration.total(rest.float(), targets_BK).item()
                x = part(x)
    return [loss / len(calibration.images_BCHW) for loss in losses.values()]


def _copy(supernet: Supernet) -> Supernet:
    again = Supernet(supernet.space)
    again.load_state_dict(supernet.state_dict())
    return again.to(supernet.device).eval()
