"""Counted multiply-accumulates: the same sum whatever kernels this processor and release have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from latency_tables.counting import UncountedOperatorError, counted_macs, may_hide_macs

BATCH, TOKENS, WIDTH, HEADS = 2, 7, 12, 3
# For each of 7 tokens: query, key and value 12 x 36, scores 7 x 12, sum of values 7 x 12, projection 12 x 12.
MACS_OF_ONE_IMAGE = 7 * 12 * 36 + 2 * 7 * 7 * 12 + 7 * 12 * 12


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x_BNC).unflatten(-1, (3, HEADS, WIDTH // HEADS)).permute(2, 0, 3, 1, 4)
        y_BHND = nn.functional.scaled_dot_product_attention(*parts)
        projected_BNC: torch.Tensor = self.project(y_BHND.transpose(1, 2).flatten(2))
        return projected_BNC


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("is_training", [False, True])
def test_one_attention_counts_the_sum_by_hand(device: str, is_training: bool) -> None:
    module = Attention().to(device).train(is_training)
    assert MACS_OF_ONE_IMAGE == 5208
    assert counted_macs(module, torch.zeros(BATCH, TOKENS, WIDTH, device=device)) == BATCH * MACS_OF_ONE_IMAGE


@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_the_kernel_that_a_caller_chose_changes_nothing(backend: SDPBackend) -> None:
    with sdpa_kernel(backend):
        assert counted_macs(Attention(), torch.zeros(1, TOKENS, WIDTH)) == MACS_OF_ONE_IMAGE


def test_torch_s_own_attention_module_is_counted_on_its_fast_path_too() -> None:
    module = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).eval()
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    x_BNC = torch.zeros(1, TOKENS, WIDTH)
    assert counted_macs(module, x_BNC, x_BNC, x_BNC) == MACS_OF_ONE_IMAGE
    assert torch.backends.mha.get_fastpath_enabled() == was_enabled


def test_convolutions_count_kernel_times_positions() -> None:
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert counted_macs(depthwise, torch.zeros(1, 8, 5, 5)) == 8 * 9 * 25


@pytest.mark.parametrize(
    "multiply", [lambda: torch.zeros(3, 4) @ torch.zeros(4), lambda: torch.dot(torch.zeros(4), torch.zeros(4))]
)
def test_an_operator_without_a_formula_is_refused(multiply: Callable[[], torch.Tensor]) -> None:
    """PyTorch's counter knows neither, and counts nothing for them."""
    with pytest.raises(UncountedOperatorError, match=r"no formula for `aten\.(mv|dot)\.default`") as caught:
        counted_macs(multiply)
    assert len(caught.value.names) == 1


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (torch.ops.aten.mm.default, True),
        (torch.ops.aten.mv.default, True),
        (torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default, True),
        (torch.ops.aten.cummax.default, False),
        (torch.ops.aten.add.Tensor, False),
    ],
)
def test_operators_that_may_hide_macs(operator: object, expected: bool) -> None:
    assert may_hide_macs(operator) == expected
