"""An exponential moving average of shared tensors, kept beside them.

After t steps it keeps the share (1 + t) / (10 + t) of itself at most, so that a short training's average is not that of
its beginning; with as many steps as published trainings have, that changes nothing to speak of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from supernets.supernet import Supernet


class MovingAverage:
    """The average of a supernet's tensors over the steps so far; running statistics are averaged like weights.

    Args:
        supernet: What is averaged; the average begins with its tensors.
        decay: Share of the average that a step keeps, once there were enough of them.
    """

    def __init__(self, supernet: Supernet, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in supernet.state_dict().items()}

    @torch.no_grad()
    def update(self, supernet: Supernet, step: int) -> None:
        """Take in the tensors as they are after the step of that number, from 0; counters are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = supernet.state_dict()
        names = [name for name, tensor in self.tensors.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([self.tensors[n] for n in names], [current[n] for n in names], 1 - decay)
        for name in self.tensors.keys() - set(names):
            self.tensors[name].copy_(current[name])

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what ``tensors`` held."""
        for name, tensor in self.tensors.items():
            tensor.copy_(tensors[name])

    @contextmanager
    def applied(self, supernet: Supernet) -> Iterator[None]:
        """While it lasts, the supernet holds the average."""
        own = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
        supernet.load_state_dict(self.tensors)
        try:
            yield
        finally:
            supernet.load_state_dict(own)
