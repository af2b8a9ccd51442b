"""Probes: small random networks that mix operators which our spaces do not use.

A table that has seen them prices other families' kernels by rooflines of their own: large windows, dense and grouped
convolutions, layer norm on maps, GELU, SiLU, attention in shifted windows, pooling, squeeze-and-excitation.
Legend of tensor suffixes: B batch (times windows), C channels, H and W rows and columns, N tokens, G heads, D channels
of a head.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from latency_tables.trace import trace
from nas.latency.sample import PROBES, Sample
from search_spaces.graph import OpGraph

SIDES = (64, 96, 128, 160)
WIDTHS = (32, 48, 64, 96)
STAGES = 3
WINDOW = 4
HEAD_WIDTH = 16
ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (nn.GELU, nn.SiLU, nn.Hardswish, nn.ReLU)


class LayerNormMap(nn.Module):
    """Layer norm over the channels of a map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        normed_BHWC: Tensor = self.norm(x_BCHW.permute(0, 2, 3, 1))
        return normed_BHWC.permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels // 4, 1),
            activation,
            nn.Conv2d(channels // 4, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        gate_BC11: Tensor = self.gate(x_BCHW)
        return x_BCHW * gate_BC11


class WindowAttention(nn.Module):
    """Attention within windows of a map that has been rolled by half a window."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_WIDTH
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        batch, channels, height, width = x_BCHW.shape
        rows, columns = height // WINDOW, width // WINDOW
        x_BHWC = torch.roll(self.norm(x_BCHW.permute(0, 2, 3, 1)), (-WINDOW // 2, -WINDOW // 2), (1, 2))
        split = x_BHWC.reshape(batch, rows, WINDOW, columns, WINDOW, channels)
        x_BNC = split.transpose(2, 3).reshape(-1, WINDOW * WINDOW, channels)
        qkv = self.qkv(x_BNC).reshape(-1, WINDOW * WINDOW, 3, self.heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        q_BGND, k_BGND, v_BGND = qkv.unbind(0)
        weights_BGNN = ((q_BGND * HEAD_WIDTH**-0.5) @ k_BGND.transpose(-2, -1)).softmax(dim=-1)
        mixed_BNC = self.project((weights_BGNN @ v_BGND).transpose(1, 2).reshape(x_BNC.shape))
        joined = mixed_BNC.reshape(batch, rows, columns, WINDOW, WINDOW, channels).transpose(2, 3)
        y_BHWC = torch.roll(joined.reshape(batch, height, width, channels), (WINDOW // 2, WINDOW // 2), (1, 2))
        return x_BCHW + y_BHWC.permute(0, 3, 1, 2)


class Residual(nn.Module):
    """A branch added to what it reads."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*layers)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Shape unchanged."""
        y_BCHW: Tensor = self.branch(x_BCHW)
        return x_BCHW + y_BCHW


def probe_sample(number: int, seed: int) -> Sample:
    """Probe ``number`` of the sample with this seed; it does not depend on how many others are drawn."""
    side = int(np.random.default_rng((seed, number)).choice(SIDES))

    def build() -> nn.Module:
        return build_probe(number, seed)

    def lower() -> OpGraph:
        with torch.device("meta"):
            module = build()
        return trace(module, (3, side, side), name)

    name = f"{PROBES}/{number}"
    return Sample(name, build, lower, side)


def build_probe(number: int, seed: int) -> nn.Module:
    """The module of a probe: a stem, then stages that halve the map, of blocks drawn at random."""
    generator = np.random.default_rng((seed, number))
    generator.choice(SIDES)
    width = int(generator.choice(WIDTHS))
    activation = ACTIVATIONS[int(generator.integers(len(ACTIVATIONS)))]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1), activation()]
    for stage in range(STAGES):
        for _ in range(int(generator.integers(1, 4))):
            layers.append(_block(generator, width, activation))
        if stage < STAGES - 1:
            wider = width * int(generator.choice([1, 2]))
            layers += _reduction(generator, width, wider)
            width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 100))


def _block(generator: np.random.Generator, width: int, activation: Callable[[], nn.Module]) -> nn.Module:
    window, ratio = int(generator.choice([3, 5, 7])), int(generator.choice([2, 3, 4]))
    hidden = width * ratio
    kind = int(generator.integers(5))
    if kind == 0:  # as in ResNet and RegNet
        groups = int(generator.choice([1, 4]))
        return Residual(
            nn.Conv2d(width, width, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(width), activation()
        )
    if kind == 1:  # as in ConvNeXt
        return Residual(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            LayerNormMap(width),
            nn.Conv2d(width, hidden, 1),
            activation(),
            nn.Conv2d(hidden, width, 1),
        )
    if kind == 2:  # as in MobileNet and EfficientNet
        return Residual(
            nn.Conv2d(width, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            activation(),
            nn.Conv2d(hidden, hidden, window, padding=window // 2, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            activation(),
            SqueezeExcite(hidden, activation()),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )
    if kind == 3:  # as in PoolFormer
        return nn.Sequential(
            Residual(nn.GroupNorm(1, width), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
            Residual(nn.Conv2d(width, hidden, 1), activation(), nn.Conv2d(hidden, width, 1)),
        )
    return nn.Sequential(  # as in Swin
        WindowAttention(width),
        Residual(LayerNormMap(width), nn.Conv2d(width, hidden, 1), activation(), nn.Conv2d(hidden, width, 1)),
    )


def _reduction(generator: np.random.Generator, width: int, wider: int) -> list[nn.Module]:
    if generator.integers(2):
        return [nn.Conv2d(width, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider)]
    return [nn.MaxPool2d(2), nn.Conv2d(width, wider, 1)]
