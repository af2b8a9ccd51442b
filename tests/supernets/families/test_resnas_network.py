"""ViT-ResNAS, the networks: blocks against what defines them, what training adds, weights for other images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latency_tables.counting import counted_macs
from latency_tables.kernels import ONNX_RUNTIME, fuse
from latency_tables.onnx_graph import read_onnx_graph
from latency_tables.trace import trace
from nas.networks.onnx import export_onnx
from search_spaces import OpGraph, SearchSpace, SingleSpace, get_space
from search_spaces.resnas import ResnasSpace
from search_spaces.resnas_definitions import RESNAS_MINI
from supernets import Supernet, SupernetError, build_network
from supernets.family import family_of, training_form
from supernets.networks.resnas import Attention, Head, Reduction, TransformerLayer
from supernets.token_logits import TokenLogits

MINI = get_space("resnas-mini")
RES_MINI = MINI.find("res-mini")


def images(count: int, side: int = 32) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def scattered(module: nn.Module, deviation: float = 0.1) -> nn.Module:
    """The module with every parameter away from where it begins."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(deviation * torch.randn(parameter.shape, generator=generator))
    return module


def network(space: SearchSpace = MINI) -> nn.Module:
    torch.manual_seed(0)
    return build_network(space, RES_MINI)


# -- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_tokens", [1, 2])
@torch.no_grad()
def test_reduction_without_weights_pools_and_pads(class_tokens: int) -> None:
    block = Reduction(side=4, in_width=3, width=5, class_tokens=class_tokens)
    for parameter in (*block.conv.parameters(), *block.project.parameters(), block.position_embedding):
        parameter.zero_()
    x_BNC = torch.randn(2, class_tokens + 16, 3)
    y_BNC = block(x_BNC)
    assert y_BNC.shape == (2, class_tokens + 4, 5)
    assert torch.equal(y_BNC[..., 3:], torch.zeros(2, class_tokens + 4, 2))
    assert torch.equal(y_BNC[:, :class_tokens, :3], x_BNC[:, :class_tokens])
    windows = x_BNC[:, class_tokens:].reshape(2, 2, 2, 2, 2, 3).mean(dim=(2, 4)).reshape(2, 4, 3)
    assert torch.allclose(y_BNC[:, class_tokens:, :3], windows, atol=1e-6)


@torch.no_grad()
def test_reduction_adds_what_is_computed_from_normed_tokens() -> None:
    block = scattered(Reduction(side=4, in_width=3, width=5, class_tokens=1))
    x_BNC = torch.randn(2, 17, 3)
    normed_BNC = F.layer_norm(x_BNC, (3,), block.norm.weight, block.norm.bias, eps=1e-6)  # type: ignore[arg-type, union-attr]
    map_BCHW = normed_BNC[:, 1:].reshape(2, 4, 4, 3).permute(0, 3, 1, 2)
    conv_BCHW = F.conv2d(map_BCHW, block.conv.weight, block.conv.bias, stride=2, padding=1)  # type: ignore[arg-type, union-attr]
    pooled_BCHW = F.avg_pool2d(x_BNC[:, 1:].reshape(2, 4, 4, 3).permute(0, 3, 1, 2), 2)
    patches_BCHW = conv_BCHW.clone()
    patches_BCHW[:, :3] += pooled_BCHW
    expected = patches_BCHW.permute(0, 2, 3, 1).reshape(2, 4, 5) + block.get_parameter("position_embedding")
    assert torch.allclose(block(x_BNC)[:, 1:], expected, atol=1e-6)
    expected = F.linear(normed_BNC[:, 0], block.project.weight, block.project.bias)  # type: ignore[arg-type, union-attr]
    expected[:, :3] += x_BNC[:, 0]
    assert torch.allclose(block(x_BNC)[:, 0], expected, atol=1e-6)


@torch.no_grad()
def test_attention_equals_a_loop_over_heads() -> None:
    attention = Attention(width=6, heads=3, head_width=4)
    x_NC = torch.randn(5, 6)
    query, key, value = attention.qkv(x_NC).chunk(3, dim=1)
    mixed = [
        (query[:, head] @ key[:, head].T * 4**-0.5).softmax(dim=1) @ value[:, head]
        for head in (slice(0, 4), slice(4, 8), slice(8, 12))
    ]
    expected = attention.project(torch.cat(mixed, dim=1))
    assert torch.allclose(attention(x_NC[None])[0], expected, atol=1e-6)


def test_a_subnet_has_the_first_heads_of_queries_keys_and_values() -> None:
    supernet = Supernet(MINI)
    shared = supernet.network.get_parameter("stage2.0.attention.qkv.weight").reshape(3, 5, 16, 80)
    subnet = supernet.extract(RES_MINI)
    found = subnet.get_parameter("stage2.0.attention.qkv.weight").reshape(3, 4, 16, 64)
    assert torch.equal(found, shared[:, :4, :, :64])


def test_initial_weights() -> None:
    for name, tensor in network().named_parameters():
        parameter = tensor.detach()
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        elif name.startswith("stem") or ".conv." in name or name.startswith("patch.conv"):
            bound = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 1.0
            assert 0 < parameter.abs().max() <= bound
            assert parameter.ndim == 1 or parameter.std() == pytest.approx(bound / 3**0.5, rel=0.2), name
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            assert parameter.std() == pytest.approx(0.02, rel=0.3), name


# -- what training adds ----------------------------------------------------------------------------------------------


def test_the_patch_classifier_answers_in_training_only() -> None:
    model = scattered(network(training_form(MINI, patch_classifier=True)))
    head = model.get_submodule("head")
    assert isinstance(head, Head)
    assert head.patch_classifier is not None
    output = model(images(3))
    assert isinstance(output, TokenLogits)
    assert output.logits_BK.shape == (3, 10)
    assert output.patches_BPK.shape == (3, 4, 10)
    tokens_BNC = head.norm(model.forward_features(images(3)))  # type: ignore[operator]
    assert torch.allclose(output.logits_BK, head.classifier(tokens_BNC[:, 0]), atol=1e-6)
    assert torch.allclose(output.patches_BPK, head.patch_classifier(tokens_BNC[:, 1:]), atol=1e-6)
    model.eval()
    assert model(images(3)).shape == (3, 10)


def test_every_shared_tensor_learns_from_the_class_and_the_patches() -> None:
    supernet = Supernet(training_form(MINI, patch_classifier=True))
    with supernet.borrow(MINI.largest) as subnet:
        output = subnet(images(4))
        assert isinstance(output, TokenLogits)
        (output.logits_BK.square().mean() + output.patches_BPK.square().mean()).backward()
    still = [name for name, p in supernet.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@torch.no_grad()
def test_both_class_tokens_classify() -> None:
    space = ResnasSpace(replace(RESNAS_MINI, class_tokens=2))
    model = scattered(build_network(space, RES_MINI)).eval()
    head = model.get_submodule("head")
    assert isinstance(head, Head)
    assert head.distillation_classifier is not None
    tokens_BNC = head.norm(model.forward_features(images(2)))  # type: ignore[operator]
    assert tokens_BNC.shape == (2, 6, 128)
    expected = (head.classifier(tokens_BNC[:, 0]) + head.distillation_classifier(tokens_BNC[:, 1])) / 2
    assert torch.allclose(model(images(2)), expected, atol=1e-6)
    assert counted_macs(model, images(1)) == space.lower(RES_MINI).macs
    supernet = Supernet(space).eval()
    assert torch.equal(supernet(images(2), RES_MINI), supernet.extract(RES_MINI)(images(2)))


@torch.no_grad()
def test_stochastic_depth_skips_branches_of_single_images() -> None:
    layer = TransformerLayer(2, 4, 2, 2, 8, class_tokens=1, drop_path=0.25)
    for branch in (layer.attention.project, layer.feed_forward.project):
        branch.weight.zero_()
    layer.attention.project.bias.fill_(1.0)
    layer.feed_forward.project.bias.fill_(10.0)
    x_BNC = torch.zeros(8000, 5, 4)
    torch.manual_seed(0)
    y_BNC = layer(x_BNC)
    assert torch.equal(y_BNC, y_BNC[:, :1, :1].expand_as(y_BNC))
    found = Counter((0.75 * y_BNC[:, 0, 0]).round().int().tolist())
    shares = {0: 0.0625, 1: 0.1875, 10: 0.1875, 11: 0.5625}
    assert {value: times / 8000 for value, times in found.items()} == pytest.approx(shares, abs=0.02)
    torch.manual_seed(0)
    assert torch.equal(layer(x_BNC), y_BNC)
    assert torch.equal(layer.eval()(x_BNC), torch.full_like(x_BNC, 11.0))


def test_a_network_alone_is_trained_with_all_of_it() -> None:
    space = SingleSpace(training_form(MINI), RES_MINI)
    form = training_form(space, drop_path=0.5, patch_classifier=True)
    supernet = Supernet(form)
    rates = [m.drop_path for m in supernet.network.modules() if isinstance(m, TransformerLayer)]
    assert rates == pytest.approx(np.linspace(0, 0.5, 9).tolist())
    with supernet.borrow(RES_MINI) as subnet:
        assert isinstance(subnet(images(2)), TokenLogits)


# -- weights for other images ----------------------------------------------------------------------------------------


@torch.no_grad()
def test_fit_weights_drop_the_patch_classifier_and_change_nothing_else() -> None:
    trained = scattered(network(training_form(MINI, patch_classifier=True))).eval()
    plain = network().eval()
    plain.load_state_dict(family_of(MINI).fit_weights(trained.state_dict(), plain))
    assert torch.equal(plain(images(2)), trained(images(2)))
    again = network(training_form(MINI, patch_classifier=True))
    fresh = again.get_parameter("head.patch_classifier.weight").clone()
    again.load_state_dict(family_of(MINI).fit_weights(plain.state_dict(), again))
    assert torch.equal(again.get_parameter("head.patch_classifier.weight"), fresh)
    assert torch.equal(again.eval()(images(2)), trained(images(2)))


@pytest.mark.parametrize("side", [16, 48, 80])
@torch.no_grad()
def test_fit_weights_interpolate_positions(side: int) -> None:
    model, other = scattered(network()), network(training_form(MINI, image_side=side)).eval()
    fitted = family_of(MINI).fit_weights(model.state_dict(), other)
    other.load_state_dict(fitted)
    assert other(images(2, side)).shape == (2, 10)
    for name, tokens, before in (("patch", 1, 8), ("reduce2", 0, 4), ("reduce3", 0, 2)):
        grid, found = model.get_parameter(f"{name}.position_embedding"), fitted[f"{name}.position_embedding"]
        assert torch.equal(found[:, :tokens], grid[:, :tokens])
        after = before * side // 32
        map_CHW = grid[0, tokens:].T.reshape(-1, before, before)
        expected = F.interpolate(map_CHW[None], size=(after, after), mode="bicubic", align_corners=False)
        assert torch.equal(found[0, tokens:].T.reshape(-1, after, after), expected[0])
    same = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, fitted[name])}
    assert same == {name for name in fitted if not name.endswith("position_embedding")}


def test_weights_of_another_network_are_refused() -> None:
    other = build_network(MINI, MINI.smallest).state_dict()
    with pytest.raises(
        SupernetError, match=r"tensor `head\.classifier\.weight`: found \(10, 96\), expected \(10, 128\)"
    ):
        family_of(MINI).fit_weights(other, network())
    incomplete = {name: tensor for name, tensor in network().state_dict().items() if name != "patch.class_token"}
    with pytest.raises(SupernetError, match=r"tensor `patch\.class_token`: found none"):
        family_of(MINI).fit_weights(incomplete, network())
    with pytest.raises(SupernetError, match=r"tensor `stranger`: found .*, expected none"):
        family_of(MINI).fit_weights({**network().state_dict(), "stranger": torch.zeros(1)}, network())


# -- latency ---------------------------------------------------------------------------------------------------------


def kernels(graph: OpGraph) -> Mapping[tuple[object, ...], int]:
    """How many kernels there are of each class and size; a move's shapes may be written in several ways."""
    launched = (kernel for _, ops in graph.blocks for kernel in fuse(ops, ONNX_RUNTIME))
    return Counter((k.op, k.macs, k.elements_written, k.window, k.stride) for k in launched)


def test_lowered_kernels_are_those_of_the_exported_network(tmp_path: Path) -> None:
    model = scattered(network()).eval()
    lowered, traced = MINI.lower(RES_MINI), trace(model, (3, 32, 32))
    export_onnx(model, 32, tmp_path / "network.onnx")
    exported = read_onnx_graph(tmp_path / "network.onnx")
    assert lowered.macs == traced.macs == exported.macs
    assert lowered.params == traced.params
    assert kernels(lowered) == kernels(traced) == kernels(exported)
