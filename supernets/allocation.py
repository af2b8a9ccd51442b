"""How much of each layer to keep: networks inside a trained model that importance alone suggests, without a search.

Units are heads, channels of heads and hidden units. A layer keeps as many as are above a threshold, and thresholds from
high to low give networks from small to large. Three criteria say what a unit is worth:

- ``dimap``: its share of the energy of all units of the layer that have no less, where energy is the sum of its squared
  weights; one threshold for each kind of unit (He and Zhou, "Data-independent Module-Aware Pruning for Hierarchical
  Vision Transformers", ICLR 2024, arXiv 2404.13648, whose units are single weights);
- ``variance``: the variance of its activation times the squared weights that read it, which is what is lost when its
  mean is made up for (Kang et al., "VBP", 2025, arXiv 2507.12988), one threshold for each kind;
- ``taylor``: the importance of `supernets.importance` per MAC that it costs, one threshold for all.

Legend of tensor suffixes: U units.
Legend of array suffixes: n networks, c choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces import Genotypes, population_cost
from search_spaces.timm_models import TimmSpace
from supernets.calibration import Calibration
from supernets.importance import importance_of, input_sums, part_of, weighted_inputs
from supernets.rewiring import axis_importance
from supernets.supernet import Supernet
from supernets.timm_models.tables import HEAD_WIDTH

DIMAP, VARIANCE, TAYLOR = "dimap", "variance", "taylor"
UNITS = ("head", HEAD_WIDTH, "hidden")
STEPS = 128
"""Thresholds that are tried, evenly over the units."""


@dataclass(frozen=True)
class _Layer:
    """Units that one choice keeps some of.

    Attributes:
        column: Column of the choice in genotypes.
        kind: One of `UNITS`.
        places: ``(part, axis)`` of what the choice narrows.
    """

    column: int
    kind: str
    places: tuple[tuple[str, str], ...]


def suggested_networks(supernet: Supernet, calibration: Calibration) -> Mapping[str, Genotypes]:
    """Networks from small to large by criterion, ``[n, c]`` each, whole but for their units; none without units.

    Args:
        supernet: Trained weights of a timm model, sorted by importance.
        calibration: What variances and gradients are taken on.
    """
    space = supernet.space
    assert isinstance(space, TimmSpace)
    layers = _layers(space)
    if not layers:
        return {}
    was_training = supernet.training
    supernet.eval()
    worth = {
        DIMAP: _by_kind(layers, [energy_shares(_energies(supernet, layer)) for layer in layers]),
        VARIANCE: _by_kind(layers, _variances(supernet, layers, calibration)),
        TAYLOR: _pooled(_taylor_per_mac(supernet, layers, calibration)),
    }
    supernet.train(was_training)
    return {name: _path(space, layers, ranks) for name, ranks in worth.items()}


def _layers(space: TimmSpace) -> list[_Layer]:
    places: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for outline in space.outline.parts:
        for axis, choice in outline.axes:
            if axis in UNITS:
                places.setdefault((choice, axis), []).append((outline.name, axis))
    return [_Layer(space.columns[choice], kind, tuple(found)) for (choice, kind), found in places.items()]


def _path(space: TimmSpace, layers: list[_Layer], ranks: list[Tensor]) -> Genotypes:
    """Networks that keep the units whose rank, from 0 for the best to 1, is below thresholds ``[n, c]``."""
    genotypes = np.repeat(space.encode([space.largest]), STEPS, axis=0)
    thresholds = torch.linspace(0, 1, STEPS, dtype=torch.float64)
    for layer, rank_U in zip(layers, ranks, strict=True):
        values = np.array(space.choices[layer.column].values)
        share_n = (rank_U[None] <= thresholds[:, None]).double().mean(dim=1).numpy()
        genotypes[:, layer.column] = np.abs(share_n[:, None] * values[-1] - values).argmin(axis=1)
    return np.unique(space.repair(genotypes), axis=0)


def _by_kind(layers: list[_Layer], values: list[Tensor]) -> list[Tensor]:
    """The rank of every unit among all of its kind."""
    ranks = list(values)
    for kind in UNITS:
        numbers = [number for number, layer in enumerate(layers) if layer.kind == kind]
        for number, rank_U in zip(numbers, _pooled([values[number] for number in numbers]), strict=True):
            ranks[number] = rank_U
    return ranks


def _pooled(values: list[Tensor]) -> list[Tensor]:
    """The rank of every unit among all of them, from 0 for the best to 1."""
    if not values:
        return []
    order = torch.cat(values).argsort(descending=True, stable=True).argsort()
    ranks = order.double() / max(len(order) - 1, 1)
    return list(torch.split(ranks, [len(some) for some in values]))


def energy_shares(energy_U: Tensor) -> Tensor:
    """Each unit's energy over that of all units which have no less."""
    sorted_U, order_U = energy_U.sort(descending=True, stable=True)
    shares_U = torch.empty_like(energy_U)
    shares_U[order_U] = sorted_U / sorted_U.cumsum(dim=0).clamp_min(torch.finfo(sorted_U.dtype).tiny)
    return shares_U


def _energies(supernet: Supernet, layer: _Layer) -> Tensor:
    energies = []
    for name, axis in layer.places:
        part = part_of(supernet, name)
        squares = {key: tensor.detach().square() for key, tensor in part.module.named_parameters() if tensor.ndim > 1}
        energies.append(axis_importance(squares, part.axes, part.sizes, axis))
    return torch.stack(energies).sum(dim=0)


def _variances(supernet: Supernet, layers: list[_Layer], calibration: Calibration) -> list[Tensor]:
    variances = {path: sums.variance_I for path, sums in input_sums(supernet, calibration).items()}
    found = []
    for layer in layers:
        lost = []
        for name, axis in layer.places:
            part = part_of(supernet, name)
            squares = {key: tensor.detach().square() for key, tensor in part.module.named_parameters()}
            weighted, axes = weighted_inputs(name, squares, part.axes, variances)
            lost.append(axis_importance(weighted, axes, part.sizes, axis))
        found.append(torch.stack(lost).sum(dim=0))
    return found


def _taylor_per_mac(supernet: Supernet, layers: list[_Layer], calibration: Calibration) -> list[Tensor]:
    importance = importance_of(supernet, TAYLOR, calibration)
    space, found = supernet.space, []
    genotypes = np.repeat(space.encode([space.largest]), len(layers) + 1, axis=0)
    for number, layer in enumerate(layers):
        genotypes[number, layer.column] = 0
    macs_n = population_cost(space, genotypes).macs
    for layer, macs in zip(layers, macs_n[:-1], strict=True):
        values = space.choices[layer.column].values
        value_U = torch.stack([importance(name, axis) for name, axis in layer.places]).sum(dim=0)
        cut_units = (1 - values[0] / values[-1]) * len(value_U)
        found.append(value_U * (cut_units / max(float(macs_n[-1] - macs), 1.0)))
    supernet.zero_grad(set_to_none=True)
    return found
