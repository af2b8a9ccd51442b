"""Training that changes matrices by little: what is trained of each is a product of two thin factors.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, arXiv 2106.09685. A matrix is
``W = W0 + B A`` with W0 as it was, A uniform within ``1 / sqrt(columns)`` as in the reference implementation, and B
zero, so that training begins with W0. Deviations:

- The paper scales the product by alpha / rank; with Adam that is mostly a matter of the learning rate, so it is 1.
- All matrices and kernels whose factors are smaller than themselves are trained in this way, not only the projections
  of attention; what is left is trained as it is: biases, scales, tokens, and the last block, whose classifier is often
  drawn anew.
- W is held, not the factors in its place: subnets borrow views of W as ever, whatever their sizes, and what is saved is
  an ordinary checkpoint. The gradient of W is formed and then projected on the factors. So moments need the memory of
  the factors alone, but gradients that of W.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supernets.supernet import Supernet

PREFIX = "low_rank/"


@dataclass(frozen=True)
class _Matrix:
    """A shared tensor of shape ``(rows, ...)`` seen as ``[rows, columns]``, and what it is made of.

    Attributes:
        shared: The tensor that subnets borrow from.
        frozen_RC: The tensor as it was.
        up_RK: Zero in the beginning; K is the rank.
        down_KC: Random in the beginning.
    """

    shared: nn.Parameter
    frozen_RC: Tensor
    up_RK: nn.Parameter
    down_KC: nn.Parameter

    def project(self) -> None:
        """Make the gradients of the factors from that of the shared tensor, which is dropped."""
        if self.shared.grad is None:
            return
        gradient_RC = self.shared.grad.reshape(self.frozen_RC.shape)
        self.up_RK.grad = gradient_RC @ self.down_KC.T
        self.down_KC.grad = self.up_RK.T @ gradient_RC
        self.shared.grad = None

    def apply(self) -> None:
        """Make the shared tensor of its parts."""
        self.shared.copy_(torch.addmm(self.frozen_RC, self.up_RK, self.down_KC).reshape(self.shared.shape))


class LowRank:
    """What is trained of a supernet whose matrices change by products of two factors.

    Args:
        supernet: Supernet whose tensors are what training begins with, and follow the factors.
        rank: Columns of the one factor and rows of the other.
        seed: Seed of the factors that begin at random.

    Attributes:
        trained: By name what an optimiser is to move: ``NAME:up`` and ``NAME:down`` for a matrix ``NAME``, and the
            other shared tensors under their own names.
    """

    def __init__(self, supernet: Supernet, rank: int, seed: int) -> None:
        *_, (last, _) = supernet.space.blocks(supernet.space.largest)
        generator = torch.Generator().manual_seed(seed)
        self.trained: dict[str, nn.Parameter] = {}
        self._matrices: dict[str, _Matrix] = {}
        for name, shared in supernet.named_parameters():
            rows, columns = len(shared), shared.numel() // len(shared)
            if name.startswith(f"network.{last}.") or rank * (rows + columns) >= rows * columns:
                self.trained[name] = shared
                continue
            down_KC = (2 * torch.rand(rank, columns, generator=generator) - 1) / columns**0.5
            matrix = _Matrix(
                shared,
                shared.detach().reshape(rows, columns).clone(),
                nn.Parameter(shared.new_zeros(rows, rank)),
                nn.Parameter(down_KC.to(shared)),
            )
            self._matrices[name] = matrix
            self.trained |= {f"{name}:up": matrix.up_RK, f"{name}:down": matrix.down_KC}

    @torch.no_grad()
    def project_gradients(self) -> None:
        """Turn the gradients that are left in the shared tensors into those of ``trained``."""
        for matrix in self._matrices.values():
            matrix.project()

    @torch.no_grad()
    def apply(self) -> None:
        """Let the shared tensors follow the factors."""
        for matrix in self._matrices.values():
            matrix.apply()

    def state(self) -> dict[str, Tensor]:
        """What `load` takes up again: all that the shared tensors do not tell."""
        return {
            f"{PREFIX}{name}:{part}": tensor
            for name, matrix in self._matrices.items()
            for part, tensor in (("frozen", matrix.frozen_RC), ("up", matrix.up_RK), ("down", matrix.down_KC))
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state` gave."""
        for key, tensor in self.state().items():
            tensor.copy_(state[key])
