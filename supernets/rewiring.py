"""Re-ordering of shared tensors along a named axis, so that a prefix of it holds what matters most.

Networks keep the first heads and hidden units of a layer. Whichever come first are trained by every network, so while
choices are warming up the most important ones are put there; a layer computes the same whatever order they have.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642. Deviation:
importance counts every weight and bias that carries the axis, whatever the layer is made of; in the published
transformer block these are the ones that the reference counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import torch
from torch import Tensor

from supernets.axes import PACKED, parse_axes
from supernets.narrowing import make_narrowing
from supernets.supernet import Supernet

REWIRED = ("head", "hidden")
"""Axes whose order is free, because nothing outside their block sees it."""

Moments = Mapping[str, Mapping[str, Tensor]]
"""Optimiser state by the name of the parameter, for example ``{"exp_avg": ..., "exp_avg_sq": ...}``."""


@torch.no_grad()
def rewire(
    supernet: Supernet, followers: Iterable[Mapping[str, Tensor]] = (), rewired: Iterable[str] = REWIRED
) -> None:
    """Sort heads and hidden units of every block by descending importance, in place.

    The largest network computes what it did before; smaller ones now keep what matters most.

    Args:
        supernet: The shared tensors.
        followers: Other tensors that move along, by the names of the shared ones whose shapes they have: a moment of
            the optimiser, an average of the weights. Names may be missing.
        rewired: Names of the axes to sort along; blocks without them stay as they are.
    """
    followers = list(followers)
    for block, spec in supernet.space.shared_blocks():
        axes, sizes = supernet.family.axes(spec), supernet.family.sizes(spec)
        module = supernet.network.get_submodule(block)
        parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
        prefix = f"network.{block}."
        moved = [module.state_dict()]
        moved += [{name: tensors[prefix + name] for name in axes if prefix + name in tensors} for tensors in followers]
        for axis in rewired:
            if axis not in sizes:
                continue
            order = axis_importance(parameters, axes, sizes, axis).argsort(descending=True, stable=True)
            for tensors in moved:
                permute_axis(tensors, axes, sizes, axis, order)


def by_moment(moments: Moments) -> list[dict[str, Tensor]]:
    """The optimiser's state, a mapping from parameters to tensors for each kind; counters are left out."""
    kinds: dict[str, dict[str, Tensor]] = {}
    for name, state in moments.items():
        for kind, tensor in state.items():
            if tensor.ndim > 0:
                kinds.setdefault(kind, {})[name] = tensor
    return list(kinds.values())


def axis_importance(
    tensors: Mapping[str, Tensor], axes: Mapping[str, str], sizes: Mapping[str, int], axis: str
) -> Tensor:
    """Sum ``(size,)`` of the absolute values that belong to each entry of an axis, over all tensors that carry it.

    Args:
        tensors: Tensors of one block, by name.
        axes: Axis description of each tensor, see `supernets.axes`.
        sizes: Size of each named axis.
        axis: Name of the axis.
    """
    any_tensor = next(iter(tensors.values()))
    importance = torch.zeros(sizes[axis], dtype=any_tensor.dtype, device=any_tensor.device)
    for split, positions in _carriers(tensors, axes, sizes, axis):
        for position in positions:
            importance += split.abs().movedim(position, 0).reshape(len(importance), -1).sum(dim=1)
    return importance


def permute_axis(
    tensors: Mapping[str, Tensor], axes: Mapping[str, str], sizes: Mapping[str, int], axis: str, order: Tensor
) -> None:
    """Re-order the entries of an axis in every tensor that carries it, in place.

    Args:
        tensors: Tensors of one block, by name; contiguous and without gradient.
        axes: Axis description of each tensor, see `supernets.axes`.
        sizes: Size of each named axis.
        axis: Name of the axis.
        order: Integers ``(size,)``: entry ``i`` becomes what entry ``order[i]`` was.

    Raises:
        ValueError: A description does not fit its tensor, or narrows the axis other than to its first entries.
    """
    named = (found for name in tensors for found in chain(*parse_axes(axes[name])))
    if any(found.name == axis and found.mode not in ("", PACKED) for found in named):
        raise ValueError(f"the order of `{axis}` is not free, networks keep its centre or scale it")
    for split, positions in _carriers(tensors, axes, sizes, axis):
        for position in positions:
            split.copy_(split.index_select(position, order))


def _carriers(
    tensors: Mapping[str, Tensor], axes: Mapping[str, str], sizes: Mapping[str, int], axis: str
) -> Iterator[tuple[Tensor, list[int]]]:
    """The tensors that carry an axis, merged axes apart, and the dimensions that are the axis."""
    for name, tensor in tensors.items():
        named = [found for dimension in parse_axes(axes[name]) for found in dimension]
        positions = [position for position, found in enumerate(named) if found.name == axis]
        if not positions:
            continue
        yield tensor.view(make_narrowing(axes[name], tuple(tensor.shape), sizes, sizes).split_shape), positions
