"""The optimiser of a supernet, and its state by the names of the shared tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from supernets.supernet import Supernet
from supernets.training_settings import TrainingSettings


def make_optimizer(supernet: Supernet, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices and kernels only."""
    parameters = list(supernet.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer, supernet: Supernet) -> dict[str, Tensor]:
    """The moments of every parameter that has some, as ``{"PARAMETER/MOMENT": tensor}``."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in supernet.named_parameters()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, supernet: Supernet, state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = dict(supernet.named_parameters())
    for key, tensor in state.items():
        name, _, moment = key.rpartition("/")
        optimizer.state[parameters[name]][moment] = tensor.to(parameters[name].device)
