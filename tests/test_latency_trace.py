"""Tracing modules to operators, and what is outside the vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latency_tables.errors import LatencyError
from latency_tables.kernels import fuse
from latency_tables.trace import trace


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.qkv = nn.Linear(8, 24)
        self.layer_norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.depthwise(torch.relu(self.norm(self.conv(x_BCHW))))
        x_BNC = self.layer_norm(x_BCHW.flatten(2).transpose(1, 2))
        q_BNC, k_BNC, v_BNC = self.qkv(x_BNC).chunk(3, dim=-1)
        mixed_BNC = nn.functional.scaled_dot_product_attention(q_BNC, k_BNC, v_BNC)
        x_BNC = x_BNC + nn.functional.gelu(mixed_BNC)
        logits_BK: torch.Tensor = self.head(x_BNC.mean(dim=1))
        return logits_BK


class Unusual(nn.Module):
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return torch.cumsum(x_BCHW, dim=1)


def test_shapes_macs_and_fusion() -> None:
    graph = trace(Block(), (3, 16, 16))
    tokens = 64
    expected = 3 * 9 * 8 * tokens + 9 * 8 * tokens + 8 * 24 * tokens + 2 * tokens * tokens * 8 + 8 * 5
    assert graph.macs == expected
    kernels = fuse(tuple(graph.ops()))
    assert kernels[0].key == "conv[3x16x16>8x8x8]k3s2+relu"
    assert [kernel.op for kernel in kernels if kernel.op in ("depthwise_conv", "softmax", "matmul", "linear")] == [
        "depthwise_conv",
        "linear",
        "matmul",
        "softmax",
        "matmul",
        "linear",
    ]
    assert {"layer_norm", "activation.gelu", "add"} <= {kernel.op for kernel in kernels}


def test_an_operator_outside_the_vocabulary_is_an_error() -> None:
    with pytest.raises(LatencyError, match="cumsum"):
        trace(Unusual(), (3, 4, 4))
