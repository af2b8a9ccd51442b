"""Tracing modules to operators, and what is outside the vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from latency_tables.counting import counted_macs
from latency_tables.errors import LatencyError
from latency_tables.kernels import fuse
from latency_tables.trace import einsum_macs, trace


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
        return torch.cummax(x_BCHW, dim=1).values


def test_shapes_macs_and_fusion() -> None:
    graph = trace(Block(), (3, 16, 16))
    tokens = 64
    expected = 3 * 9 * 8 * tokens + 9 * 8 * tokens + 8 * 24 * tokens + 2 * tokens * tokens * 8 + 8 * 5
    assert graph.macs == expected
    kernels = fuse(tuple(graph.ops()))
    assert kernels[0].key == "conv[3x16x16>8x8x8]k3s2+relu"
    shown = ("depthwise_conv", "softmax", "matmul.narrow", "linear")
    assert [kernel.op for kernel in kernels if kernel.op in shown] == [
        "depthwise_conv",
        "linear",
        "matmul.narrow",
        "softmax",
        "matmul.narrow",
        "linear",
    ]
    assert {"layer_norm", "activation.gelu", "add"} <= {kernel.op for kernel in kernels}


def test_an_unknown_operator_is_named_and_priced_by_its_shapes() -> None:
    (op,) = trace(Unusual(), (3, 4, 4)).ops()
    assert (op.kind, op.function, op.elements_read, op.elements_written, op.macs) == ("other", "cummax", 48, 48, 0)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 4)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        hidden_BC: torch.Tensor = self.cell(x_BCHW.mean(dim=(2, 3)), x_BCHW.amax(dim=(2, 3)))
        return hidden_BC


class Branching(nn.Module):
    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW if x_BCHW.sum() > 0 else -x_BCHW


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.zeros(3, 1, 1))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW * self.logarithm.exp().type_as(x_BCHW)


def test_a_constant_that_takes_its_type_from_a_value_stays_one() -> None:
    (op,) = trace(Scaled(), (3, 4, 4)).ops()
    assert (op.kind, op.inputs, op.params) == ("multiply", ("input",), 3)


def test_what_torch_writes_with_other_operators_is_taken_apart() -> None:
    expected = 2 * 3 * 4 * 4
    assert trace(Recurrent(), (4, 2, 2)).macs == expected
    assert counted_macs(Recurrent().eval(), torch.zeros(1, 4, 2, 2)) == expected


def test_a_module_that_cannot_be_exported_is_one_clear_error() -> None:
    with pytest.raises(LatencyError, match="model `odd` cannot be traced for an input of 3 x 4 x 4"):
        trace(Branching(), (3, 4, 4), "odd")
    with pytest.raises(LatencyError, match="cannot be traced"):
        trace(Block(), (5, 16, 16))


def test_windows_in_the_batch_keep_their_number() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(3, 6)

        def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
            windows_BNC = x_BCHW.permute(0, 2, 3, 1).reshape(4, 16, 3)
            y_BNC: torch.Tensor = self.project(torch.roll(windows_BNC, 1, 1))
            return y_BNC

    graph = trace(Windows(), (3, 8, 8))
    ops = list(graph.ops())
    assert [op.function or op.kind for op in ops] == ["transpose", "roll", "linear"]
    assert ops[-1].input_shapes == ((4, 16, 3),)
    assert graph.macs == 64 * 3 * 6


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bhnd,bhmd->bhnm", [(1, 2, 5, 4), (1, 2, 7, 4)], 2 * 5 * 7 * 4),
        ("...ij,jk->...ik", [(3, 5, 4), (4, 6)], 3 * 5 * 4 * 6),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 3 * 4 * 5),
    ],
)
def test_macs_of_einsums(equation: str, shapes: list[tuple[int, ...]], macs: int) -> None:
    assert einsum_macs(equation, shapes) == macs


# What these compute from weights alone is a constant for every runtime, but not for the flop counter.
FAMILIES = {
    "mobilenetv3_small_050": 0,
    "mobilenetv4_conv_small_035": 0,
    "resnet10t": 0,
    "efficientnet_b0": 0,
    "convnext_atto": 0,
    "convnextv2_atto": 0,
    "vit_tiny_patch16_224": 0,
    "deit_tiny_distilled_patch16_224": 0,
    "swin_tiny_patch4_window7_224": 0,
    "levit_128s": 0,
    "efficientformer_l1": 0,
    "efficientformerv2_s0": 0,
    "mobilenetv4_hybrid_medium": 0,
    "regnety_002": 0,
    "repvit_m1": 0,
    "mobilevit_xxs": 0,
    "poolformer_s12": 0,
    "mixer_s32_224": 0,
    "edgenext_xx_small": 3145728,  # the position encoding's convolution
}
FAST = ("mobilenetv3_small_050", "resnet10t", "convnext_atto", "levit_128s")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in FAMILIES])
def test_macs_and_parameters_of_timm_models(name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        module = timm.create_model(name).eval()
        macs = counted_macs(module, torch.zeros(1, 3, *module.default_cfg["input_size"][1:]))
    graph = trace(module, module.default_cfg["input_size"], name)
    assert graph.macs == macs - FAMILIES[name]
    assert graph.params == sum(parameter.numel() for parameter in module.parameters())
    assert all(op.kind != "other" for op in graph.ops())
