"""Adaptive rounding: each weight is rounded up or down so that its block gives what it gave in fp32.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", ICML 2020, arXiv 2004.10568, block by
block, with half of what a block reads taken from the network in fp32 (Wei et al., "QDrop: Randomly Dropping
Quantization for Extremely Low-bit Post-Training Quantization", ICLR 2022, arXiv 2203.05740). Grids stay as they are,
so rounded weights are stored by any file format as they are.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from latency_tables.onnx_quantised import Precision
from nas.quantisation.fake import FakeQuantisation, weight_grid
from nas.quantisation.reconstruction import IMAGES, Call, blocks_of, calls_of, fit
from nas.quantisation.watching import own_weights

ITERATIONS = 300
RATE = 2e-2
DROP = 0.5
"""Share of the numbers that a block reads as they are in fp32."""
DECIDED = 1.0
"""Weight of the loss that drives each weight up or down, beside the block's error as a share of the nearest one's."""
WARM_UP = 0.2
"""Share of the iterations without that loss."""
STRETCH = (-0.1, 1.1)
"""Ends of the sigmoid that says how far up a weight is; it is cut to 0 and 1, which are reached so."""


def adaptive_rounding(
    network: nn.Module,
    original: nn.Module,
    images_BCHW: Tensor,
    mode: FakeQuantisation,
    iterations: int = ITERATIONS,
    seed: int = 0,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Round the weights of quantised layers in place.

    Args:
        network: In evaluation mode.
        original: The network in fp32.
        images_BCHW: Training images as it takes them, of which the first 512 are looked at.
        mode: What its layers compute in, and what they read.
        iterations: Steps for each block.
        seed: Seed of the order of images, and of what is taken from the network in fp32.
        tell: Called with how many blocks are done of how many.

    Returns:
        Names of the layers whose weights were chosen; layers that share a weight, and blocks that are called more than
        once, keep the nearest.
    """
    images_BCHW = images_BCHW[:IMAGES]
    weights = {name: weight for name, (weight, _) in own_weights(network, images_BCHW[:1]).items()}
    chosen = [name for name, precision in mode.precisions.items() if precision != "fp32" and name in weights]
    blocks, done = blocks_of(network, chosen), []
    for number, (path, names) in enumerate(blocks.items()):
        tell(number, len(blocks))
        targets, found = calls_of(original, path, images_BCHW), calls_of(network, path, images_BCHW, mode)
        if targets and found:
            roundings = {name: _Rounding(weights[name], mode.precisions[name]) for name in names}
            _round_block(network.get_submodule(path), _Soft(network, mode, roundings), targets, found, iterations, seed)
            for name, rounding in roundings.items():
                rounding.settle(weights[name])
            done += names
    return done


def _round_block(
    block: nn.Module, soft: _Soft, targets: list[Call], found: list[Call], iterations: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def run(number: int) -> Tensor:
        call = found[number]
        keeps = torch.rand(call.x.shape, generator=generator).to(call.x.device) >= DROP
        x = torch.where(keeps, call.x, targets[number].x)
        return soft.run(block, x, *call.others, **call.options)

    def penalty(share: float) -> Tensor:
        if share < WARM_UP:
            return torch.zeros(())
        sharpness = 2 + 18 * (1 - (share - WARM_UP) / (1 - WARM_UP))
        parts = [1 - (2 * rounding.up() - 1).abs() ** sharpness for rounding in soft.roundings.values()]
        return DECIDED * torch.cat([part.flatten() for part in parts]).mean()

    parameters = [rounding.free for rounding in soft.roundings.values()]
    outputs = [call.output for call in targets]
    fit(run, outputs, parameters, iterations=iterations, rate=RATE, seed=seed, penalty=penalty)


class _Rounding:
    """The grid of one weight, and how far up each of its numbers is."""

    def __init__(self, weight: nn.Parameter, precision: Precision) -> None:
        fixed = weight.detach()
        self.step, self.low, self.high = weight_grid(fixed, precision)
        places = fixed / self.step
        self.ends = places.abs() >= max(-self.low, self.high) - 1e-4  # which set the grid
        self.floor = torch.where(self.ends, places.round(), places.floor())
        start, end = STRETCH
        share = ((places - self.floor).clamp(0, 1) - start) / (end - start)
        self.free = share.logit().requires_grad_()

    def up(self) -> Tensor:
        """How far each number is from the one below it on the grid, in [0, 1]."""
        start, end = STRETCH
        return torch.where(self.ends, 0.0, (self.free.sigmoid() * (end - start) + start).clamp(0, 1))

    def soft(self) -> Tensor:
        """The weight as it is while it is undecided."""
        found: Tensor = (self.floor + self.up()).clamp(self.low, self.high) * self.step
        return found

    @torch.no_grad()
    def settle(self, weight: nn.Parameter) -> None:
        """Put the chosen numbers into a weight."""
        weight.copy_((self.floor + (self.up() >= 0.5)).clamp(self.low, self.high) * self.step)


class _Soft(FakeQuantisation):
    """A network with some weights that are undecided."""

    def __init__(self, network: nn.Module, known: FakeQuantisation, roundings: Mapping[str, _Rounding]) -> None:
        super().__init__(network, known.precisions, known.ranges)
        self.roundings = roundings

    def weight(self, name: str, weight: Tensor, precision: Precision) -> Tensor:
        """The layer's weight, undecided where it is one of those."""
        found = self.roundings.get(name)
        return super().weight(name, weight, precision) if found is None else found.soft()
