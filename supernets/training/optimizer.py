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

    The learning rate of a group is the training's times its ``lr_scale``: ``layer_decay`` to the power of the number of
    layers between the group's and the last one, as in timm's optimisers.

    Source of the decay over layers: Clark et al., "ELECTRA", ICLR 2020, arXiv 2003.10555; for vision transformers Bao
    et al., "BEiT", ICLR 2022, arXiv 2106.08254.

    Args:
        supernet: The supernet, whose family knows what is spared and which layers there are.
        settings: How it is trained.
        trained: What is moved; None for the shared tensors themselves.
    """
    spared = _spared(supernet) if settings.decay == "published" else frozenset()
    scales = _scales(supernet, settings.layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {
        (scale, d): [] for scale in scales.values() for d in (True, False)
    }
    for name, parameter in (trained or dict(supernet.named_parameters())).items():
        shared = name.partition(":")[0]
        is_decayed = parameter.ndim > 1 and shared not in spared
        groups[scales[shared], is_decayed].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": settings.weight_decay if is_decayed else 0.0, "lr_scale": scale}
            for (scale, is_decayed), parameters in groups.items()
            if parameters
        ],
        lr=settings.learning_rate,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the learning rate ``rate``, times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


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


def _scales(supernet: Supernet, layer_decay: float) -> dict[str, float]:
    """The factor of the learning rate of each shared tensor, by name."""
    if layer_decay == 1:
        return dict.fromkeys(dict(supernet.named_parameters()), 1.0)
    layers = supernet.family.layers(supernet.space, supernet.network)
    last = max(layers.values())
    return {f"network.{name}": layer_decay ** (last - layer) for name, layer in layers.items()}
