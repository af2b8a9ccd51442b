"""AutoFormer, the networks: relative positions against their definition, which tensors a subnet has, ONNX."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latency_tables.kernels import ONNX_RUNTIME, fuse
from latency_tables.onnx_graph import read_onnx_graph
from nas.networks.onnx import OnnxNetwork, export_onnx
from search_spaces import get_space
from supernets import Supernet
from supernets.networks.autoformer import FARTHEST, Attention, RelativePositions

MINI = get_space("autoformer-mini")


def shaken(supernet: Supernet) -> Supernet:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in supernet.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return supernet.eval()


def pairs(positions: RelativePositions, side: int) -> Tensor:
    """What every pair of tokens adds, ``(N, N, D)``, by the definition."""
    tokens = 1 + side * side
    found = (positions.rows[0] + positions.columns[0]).repeat(tokens, tokens, 1)
    row, column = torch.arange(side * side) // side, torch.arange(side * side) % side
    apart = [(place - place[:, None]).clamp(-FARTHEST, FARTHEST) + FARTHEST + 1 for place in (row, column)]
    found[1:, 1:] = positions.rows[apart[0]] + positions.columns[apart[1]]
    return found


@torch.no_grad()
@pytest.mark.parametrize("side", [2, 4, 17])
def test_relative_positions_are_those_of_their_definition(side: int) -> None:
    attention, tokens = Attention(side, width=8, heads=2, head_width=4), 1 + side * side
    for parameter in attention.parameters():
        parameter.normal_()
    x_BNC = torch.randn(3, tokens, 8)
    parts = attention.qkv(x_BNC).reshape(3, tokens, 3, 2, 4).permute(2, 0, 3, 1, 4)
    keys_NND, values_NND = pairs(attention.key_positions, side), pairs(attention.value_positions, side)
    scores_BGNN = parts[0] @ parts[1].mT + torch.einsum("bgqd,qkd->bgqk", parts[0], keys_NND)
    weights_BGNN = (scores_BGNN / 4**0.5).softmax(dim=-1)
    mixed_BGND = weights_BGNN @ parts[2] + torch.einsum("bgqk,qkd->bgqd", weights_BGNN, values_NND)
    expected = attention.project(mixed_BGND.transpose(1, 2).reshape(3, tokens, 8))
    assert torch.allclose(attention(x_BNC), expected, atol=2e-5)


def test_a_subnet_takes_its_bias_from_the_beginning_and_its_weights_part_by_part() -> None:
    supernet = shaken(Supernet(MINI))
    architecture = MINI.from_values({**dict(MINI.largest.settings), "blocks.1.heads": 3, "width": 216})
    name, subnet = "blocks.1.attention.qkv", supernet.extract(architecture)
    weight, bias = (supernet.network.get_parameter(f"{name}.{tensor}") for tensor in ("weight", "bias"))
    assert torch.equal(subnet.get_parameter(f"{name}.bias"), bias[:576])
    assert torch.equal(
        subnet.get_parameter(f"{name}.weight"), weight.view(3, 256, 240)[:, :192, :216].reshape(576, 216)
    )


@torch.no_grad()
def test_in_prenas_the_bias_goes_part_by_part() -> None:
    space = get_space("prenas-tiny")
    supernet, name = shaken(Supernet(space)), "blocks.5.attention.qkv.bias"
    bias = supernet.network.get_parameter(name)
    assert torch.equal(
        supernet.extract(space.find("published")).get_parameter(name), bias.view(3, 256)[:, :192].flatten()
    )


@torch.no_grad()
def test_onnx_computes_the_same_by_the_operators_of_the_graph(tmp_path: Path) -> None:
    network, file = shaken(Supernet(MINI)).extract(MINI.smallest), tmp_path / "model.onnx"
    export_onnx(network, 64, file, {})
    x_BCHW = torch.randn(2, 3, 64, 64)
    expected = network(x_BCHW)
    assert (torch.as_tensor(OnnxNetwork(file)(x_BCHW)) - expected).abs().max() < 1e-5 * (
        expected.max() - expected.min()
    )
    graph, lowered = read_onnx_graph(file), MINI.lower(MINI.smallest)
    assert graph.macs == lowered.macs
    found, planned = (Counter(k.op for k in fuse(tuple(each.ops()), ONNX_RUNTIME)) for each in (graph, lowered))
    assert found == planned
