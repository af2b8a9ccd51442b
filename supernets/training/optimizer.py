"""The optimiser of a supernet, and its state by the names of what it moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from supernets.supernet import Supernet
from supernets.training.settings import TrainingSettings

Trained = Mapping[str, nn.Parameter]
"""What is trained, by name: the shared tensors, or for some of them ``NAME:PART``, see
`supernets.training.low_rank`.
"""


def make_optimizer(supernet: Supernet, settings: TrainingSettings, trained: Trained | None = None) -> torch.optim.AdamW:
    """AdamW with weight decay on what `TrainingSettings.decay` says.

    Args:
        supernet: The supernet, whose family knows what is spared.
        settings: How it is trained.
        trained: What is moved; None for the shared tensors themselves.
    """
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    spared = _spared(supernet) if settings.decay == "published" else frozenset()
    for name, parameter in (trained or dict(supernet.named_parameters())).items():
        (kept if parameter.ndim <= 1 or name.partition(":")[0] in spared else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def optimizer_state(optimizer: torch.optim.Optimizer, trained: Trained) -> dict[str, Tensor]:
    """The moments of all that has some, as ``{"NAME/MOMENT": tensor}``."""
    return {
        f"{name}/{moment}": tensor
        for name, parameter in trained.items()
        for moment, tensor in optimizer.state.get(parameter, {}).items()
    }


def moments_by_name(optimizer: torch.optim.Optimizer, trained: Trained) -> dict[str, dict[str, Tensor]]:
    """The moments of all that has some, shaped as it is: ``{NAME: {"exp_avg": tensor, ...}}``."""
    return {
        name: {
            moment: tensor for moment, tensor in optimizer.state[parameter].items() if tensor.shape == parameter.shape
        }
        for name, parameter in trained.items()
        if parameter in optimizer.state
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, trained: Trained, state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    for key, tensor in state.items():
        name, _, moment = key.rpartition("/")
        optimizer.state[trained[name]][moment] = tensor.to(trained[name].device)


def _spared(supernet: Supernet) -> frozenset[str]:
    """The names of the shared tensors that the family's paper leaves without weight decay."""
    family, space = supernet.family, supernet.space
    return frozenset(
        f"network.{block}.{name}"
        for block, spec in space.shared_blocks()
        for name, _ in supernet.network.get_submodule(block).named_parameters()
        if family.is_spared(spec, name)
    )
