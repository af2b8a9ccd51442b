"""Stages that make a network lose less in few bits: module in, module out."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from latency_tables.onnx_quantised import Precision
from nas.quantisation.adaptive_rounding import adaptive_rounding
from nas.quantisation.bias_correction import bias_correction
from nas.quantisation.clip import clip
from nas.quantisation.evaluated import integer_mode
from nas.quantisation.fake import rounded_weight
from nas.quantisation.reconstruction import blocks_of, calls_of
from nas.quantisation.relu_mlp import relu_mlp
from nas.quantisation.sensitivity import divergence
from nas.quantisation.watching import LayerMode
from tests.support.quantised import inner_layers, random_images, random_vit


@pytest.mark.parametrize("precision", ["int8", "w8", "w4", "w2"])
def test_rounded_weights_stay_what_they_are(precision: Precision) -> None:
    weight_OI = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
    once_OI = rounded_weight(weight_OI, precision)
    assert (once_OI != weight_OI).any()
    assert torch.allclose(rounded_weight(once_OI, precision), once_OI, rtol=1e-6)


@torch.no_grad()
def test_clipped_weights_lose_less_and_stay_clipped() -> None:
    network, images_BCHW = random_vit(), random_images(8)
    network.get_parameter("blocks.0.mlp.fc1.weight")[:, ::32] *= 8
    original, layers = copy.deepcopy(network), inner_layers(network)
    clip(network, images_BCHW, dict.fromkeys(layers[:-1], "w2"))
    assert all(
        torch.equal(weight, original.get_parameter(name)) == (name.removesuffix(".weight") not in layers[:-1])
        for name, weight in network.named_parameters()
    )
    path = "blocks.0.mlp.fc1"
    x, whole_OI = calls_of(original, path, images_BCHW)[0].x, original.get_parameter(f"{path}.weight")
    clipped_OI = network.get_parameter(f"{path}.weight")
    errors = [(x @ (rounded_weight(each_OI, "w2") - whole_OI).T).square().mean() for each_OI in (clipped_OI, whole_OI)]
    assert errors[0] < 0.9 * errors[1]
    once_OI = rounded_weight(clipped_OI, "w2")
    clipped_OI.copy_(once_OI)
    clip(network, images_BCHW, {path: "w2"})
    assert torch.allclose(clipped_OI, once_OI)


def test_corrected_biases_give_every_layer_its_mean() -> None:
    network, images_BCHW = random_vit(), random_images(16)
    original, mode = copy.deepcopy(network), integer_mode(network, images_BCHW, "w2")
    bias_correction(network, original, images_BCHW, mode)
    for path in ("blocks.0.attn.qkv", "blocks.1.mlp.fc2", "head"):
        expected, found = calls_of(original, path, images_BCHW), calls_of(network, path, images_BCHW, mode)
        mean_O, expected_O = (calls[0].output.flatten(0, -2).mean(dim=0) for calls in (found, expected))
        assert torch.allclose(mean_O, expected_O, atol=1e-4)


def test_blocks_are_the_largest_modules_of_few_layers() -> None:
    network = random_vit()
    blocks = blocks_of(network, inner_layers(network))
    assert list(blocks) == ["blocks.0", "blocks.1", "head"]
    assert blocks["blocks.1"] == [f"blocks.1.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert calls_of(network, "blocks.0", random_images(40))[1].x.shape[0] == 8
    assert calls_of(network, "patch_embed.norm", random_images(2))[0].options == {}


@torch.no_grad()
def test_adaptive_rounding_loses_less_and_is_stored_as_it_is() -> None:
    network, images_BCHW = random_vit(depth=1), random_images(32)
    original, mode = copy.deepcopy(network), integer_mode(network, images_BCHW, "w2")
    expected_BK, nearest_BK = original(images_BCHW), mode.run(network, images_BCHW)
    assert adaptive_rounding(network, original, images_BCHW, mode, iterations=40) == inner_layers(network)
    found_BK = mode.run(network, images_BCHW)
    assert divergence(expected_BK, found_BK) < 0.6 * divergence(expected_BK, nearest_BK)
    assert torch.allclose(LayerMode(network).run(network, images_BCHW), found_BK, atol=1e-4)


@torch.no_grad()
def test_layers_around_a_relu_are_fitted_to_what_a_gelu_gave() -> None:
    network, images_BCHW = random_vit(depth=1), random_images(32)
    original, plain = copy.deepcopy(network), copy.deepcopy(network)
    assert (
        relu_mlp(plain, images_BCHW, iterations=0) == relu_mlp(network, images_BCHW, iterations=30) == ["blocks.0.mlp"]
    )
    assert isinstance(network.get_submodule("blocks.0.mlp.act"), nn.ReLU)
    expected_BK = original(images_BCHW)
    assert divergence(expected_BK, network(images_BCHW)) < 0.5 * divergence(expected_BK, plain(images_BCHW))
