"""Parts of a network that are fitted to what they gave before, one after the other and from the front.

Each part reads what the changed network feeds it, and is to give what it gave in the original one (Li et al., "BRECQ:
Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021, arXiv 2102.05426).

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nas.quantisation.watching import BATCH, LayerMode

IMAGES = 512
"""Training images that parts are fitted on."""
MOST_LAYERS = 6
"""Weighted layers of one block at most; a transformer's has four, or six with query, key and value apart."""


@dataclass(frozen=True)
class Call:
    """One call of a part.

    Attributes:
        x: What it reads.
        others: Its other arguments, by position.
        options: Its other arguments, by name.
        output: What it gives.
    """

    x: Tensor
    others: tuple[Any, ...]
    options: Mapping[str, Any]
    output: Tensor


class _SeenError(Exception):
    """Everything behind a part need not be computed."""


def blocks_of(network: nn.Module, layers: Iterable[str]) -> dict[str, list[str]]:
    """The largest modules with `MOST_LAYERS` layers at most, in order, and the names of their layers."""
    names = list(layers)

    def found(module: nn.Module, path: str) -> dict[str, list[str]]:
        inside = [name for name in names if f"{name.partition('#')[0]}.".startswith(f"{path}." if path else "")]
        is_called = type(module).forward is not nn.Module.forward  # lists of modules are not
        if path and is_called and 0 < len(inside) <= MOST_LAYERS:
            return {path: inside}
        blocks: dict[str, list[str]] = {}
        for name, child in module.named_children() if inside else ():
            blocks |= found(child, f"{path}.{name}" if path else name)
        return blocks

    return found(network, "")


@torch.no_grad()
def calls_of(network: nn.Module, path: str, images_BCHW: Tensor, mode: LayerMode | None = None) -> list[Call]:
    """The calls of a module, one for each batch of images; none where it is not called once, from tensor to tensor.

    Args:
        network: In evaluation mode.
        path: Name of the module.
        images_BCHW: Images as the network takes them.
        mode: What the network computes in; None for fp32.
    """
    calls: list[Call] = []

    def keep(_: nn.Module, args: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            calls.append(Call(args[0], args[1:], options, output))
        raise _SeenError

    handle = network.get_submodule(path).register_forward_hook(keep, with_kwargs=True)
    run = mode or LayerMode(network)
    try:
        batches = torch.split(images_BCHW, BATCH)
        for some_BCHW in batches:
            try:
                run.run(network, some_BCHW)
            except _SeenError:
                continue
    finally:
        handle.remove()
    return calls if len(calls) == len(batches) else []


def fit(
    run: Callable[[int], Tensor],
    targets: Sequence[Tensor],
    parameters: Sequence[Tensor],
    *,
    iterations: int,
    rate: float,
    seed: int = 0,
    penalty: Callable[[float], Tensor] = lambda share: torch.zeros(()),
) -> None:
    """Fit parameters to targets by mean squared error, as a share of what it was, and a penalty.

    Args:
        run: Gives what a part computes for the batch of a number.
        targets: What it is to give, by batch.
        parameters: What is changed.
        iterations: Steps of Adam, a batch each.
        rate: Learning rate at the beginning; it falls to 0 as half a cosine.
        seed: Seed of the order of batches.
        penalty: Further loss, given the share of the steps that is done.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    with torch.no_grad():
        before = sum(float((run(number) - target).square().mean()) for number, target in enumerate(targets))
    whole = max(before / len(targets), 1e-12)
    for step in range(iterations):
        number = int(torch.randint(len(targets), (), generator=generator))
        with torch.enable_grad():
            error = (run(number) - targets[number]).square().mean()
            loss = error / whole + penalty(step / iterations)
            gradients = torch.autograd.grad(loss, list(parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    for parameter in parameters:
        parameter.grad = None
