"""Several subnets on one batch, each on its own images: the two executions of multi-architectural sampling.

Group ``g`` of ``G`` has the images ``g::G``. *Masked*, the largest network sees the whole batch and masks switch off
what an image's architecture does not have; *sliced*, every group runs through views of its own size. Both compute the
same.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642, which masks.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, K classes, P patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from search_spaces import Architecture
from supernets.axes import Narrowing
from supernets.errors import SupernetError
from supernets.masked import masked_forward
from supernets.sampling.policy import Assignment
from supernets.shares import Output, check_shares, in_batch_order
from supernets.supernet import BlockPlan, Supernet

Execution = Literal["masked", "sliced"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)

DEFAULT_EXECUTIONS: Mapping[str, Execution] = {"cpu": "sliced"}
"""The faster execution by kind of device, as `benchmarks/multi_architecture_step.py` measured it."""


def default_execution(device: torch.device) -> Execution:
    """The execution that is faster on a kind of device; sliced, which does less work, where nothing was measured."""
    return DEFAULT_EXECUTIONS.get(device.type, "sliced")


def run_groups(
    supernet: Supernet, assignments: Sequence[Assignment], images_BCHW: Tensor, execution: Execution | None = None
) -> Output:
    """Run the architectures of a step, each on its share of the batch; ``backward`` reaches the shared tensors.

    Args:
        supernet: The shared tensors, in training or evaluation mode.
        assignments: One of every share, in the order of their indices.
        images_BCHW: The whole batch.
        execution: How to run them; None takes `default_execution`.

    Returns:
        The outputs of all images, in the order of the batch.

    Raises:
        SupernetError: Shares do not divide the batch among the assignments, or the execution is not known, or masked
            and the networks have no masks.
    """
    execution = execution or default_execution(supernet.device)
    if execution == "masked":
        return masked_forward(supernet, assignments, images_BCHW)
    if execution == "sliced":
        return sliced_forward(supernet, assignments, images_BCHW)
    raise SupernetError(f"execution: found `{execution}`, expected `{'` or `'.join(EXECUTIONS)}`")


def sliced_forward(supernet: Supernet, assignments: Sequence[Assignment], images_BCHW: Tensor) -> Output:
    """Run every architecture at its own size; see `run_groups`.

    Leading blocks that all architectures have alike run once, on the whole batch: that is faster, and batch norm in
    them sees the statistics of the whole batch, as under masks. Gradients go through detached leaves, as in
    `Supernet.borrow`, and are added to the shared ones while ``backward`` runs.
    """
    check_shares(assignments, len(images_BCHW))
    networks = [list(supernet.plans(assignment.architecture)) for assignment in assignments]
    sides = [_input_side(supernet, assignment.architecture) for assignment in assignments]
    common = _common_blocks(networks) if len(set(sides)) == 1 else 0
    x = images_BCHW if common == 0 else supernet.family.prepare(images_BCHW, sides[0])
    x = _run(supernet, networks[0][:common], x)
    if common == len(networks[0]):
        return x  # type: ignore[no-any-return]
    parts = []
    for group, (network, side) in enumerate(zip(networks, sides, strict=True)):
        part = x[group :: len(networks)]
        part = part if common else supernet.family.prepare(part, side)
        parts.append(_run(supernet, network[common:], part))
    return in_batch_order(parts)


Network = list[tuple[str, BlockPlan]]


def _input_side(supernet: Supernet, architecture: Architecture) -> int:
    return supernet.space.input_shape(dict(architecture.settings))[-1]


def _common_blocks(networks: Sequence[Network]) -> int:
    """How many leading blocks all networks have alike; equal blocks have the same plan."""
    common = 0
    for blocks in zip(*networks, strict=False):
        if any(block != blocks[0] for block in blocks):
            break
        common += 1
    return common


def _run(supernet: Supernet, blocks: Network, x: Any) -> Any:
    anchor = torch.empty(0, requires_grad=True)
    for block, plan in blocks:
        tensors: dict[str, Tensor] = {}
        trained: dict[str, tuple[Tensor, Narrowing]] = {}
        for name, shared, narrowing in supernet.shared_tensors(block, plan):
            if shared.requires_grad and torch.is_grad_enabled():
                trained[name] = (shared, narrowing)
            else:
                tensors[name] = narrowing.narrow(shared.detach())
        tensors.update(zip(trained, _Borrow.apply(anchor, list(trained.values())), strict=True))
        x = plan.run(tensors, x, supernet.training)
    return x


class _Borrow(torch.autograd.Function):
    """The active parts of a block's parameters; their gradients go straight into those of the whole parameters."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, borrowed: list[tuple[Tensor, Narrowing]]) -> tuple[Tensor, ...]:
        """``anchor`` is there to need a gradient, without which ``backward`` would not be called."""
        ctx.borrowed = borrowed
        ctx.set_materialize_grads(False)
        return tuple(narrowing.narrow(parameter.detach()) for parameter, narrowing in borrowed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, None]:
        for (parameter, narrowing), gradient in zip(ctx.borrowed, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            narrowing.accumulate(parameter.grad, gradient)
        return None, None
