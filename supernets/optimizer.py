"""The optimiser of a supernet, and its state by the names of the shared tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from supernets.supernet import Supernet
from supernets.training_settings import TrainingSettings


@runtime_checkable
class SparesFromDecay(Protocol):
    """A network family whose paper leaves more without weight decay than biases and other one-dimensional tensors."""

    def is_spared(self, spec: Any, name: str) -> bool:
        """Whether the parameter ``name`` of a block has no weight decay."""
        ...


def make_optimizer(supernet: Supernet, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with weight decay on what `TrainingSettings.decay` says."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    spared = _spared(supernet) if settings.decay == "published" else frozenset()
    for name, parameter in supernet.named_parameters():
        (kept if parameter.ndim <= 1 or name in spared else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer, supernet: Supernet) -> dict[str, Tensor]:
    """The moments of every parameter that has some, as ``{"PARAMETER/MOMENT": tensor}``."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in supernet.named_parameters()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def moments_by_name(optimizer: torch.optim.Optimizer, supernet: Supernet) -> dict[str, dict[str, Tensor]]:
    """The moments of every parameter that has some, shaped as it is: ``{PARAMETER: {"exp_avg": tensor, ...}}``."""
    return {
        name: {
            moment: tensor for moment, tensor in optimizer.state[parameter].items() if tensor.shape == parameter.shape
        }
        for name, parameter in supernet.named_parameters()
        if parameter in optimizer.state
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, supernet: Supernet, state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = dict(supernet.named_parameters())
    for key, tensor in state.items():
        name, _, moment = key.rpartition("/")
        optimizer.state[parameters[name]][moment] = tensor.to(parameters[name].device)


def _spared(supernet: Supernet) -> frozenset[str]:
    """The names of the shared tensors that the family's paper leaves without weight decay."""
    family, space = supernet.family, supernet.space
    if not isinstance(family, SparesFromDecay):
        return frozenset()
    return frozenset(
        f"network.{block}.{name}"
        for block, spec in space.blocks(space.largest)
        for name, _ in supernet.network.get_submodule(block).named_parameters()
        if family.is_spared(spec, name)
    )
