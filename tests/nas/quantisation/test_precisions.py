"""What fewer bits cost: fake quantisation against ONNX Runtime, sensitivities, and the integer program."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from latency_tables.onnx_quantised import Precision, place, quantise_onnx
from latency_tables.runtimes.onnx_file import exported_model
from nas.errors import UsageError
from nas.networks.onnx import OnnxNetwork
from nas.quantisation.fake import FakeQuantisation
from nas.quantisation.program import LayerOptions, Option, assign, assignments
from nas.quantisation.sensitivity import divergence, logits_in, sensitivities
from nas.quantisation.watching import inputs_of_layers, weighted_layers
from tests.support.quantised import inner_layers, random_images, random_vit


@pytest.fixture(scope="module")
def vit() -> tuple[nn.Module, bytes]:
    network = random_vit()
    return network, exported_model(network, (3, 32, 32)).SerializeToString()


def in_the_runtime(onnx_bytes: bytes, assignment: dict[str, Precision], images_BCHW: Tensor, path: Path) -> Tensor:
    singles = (image_CHW[None].numpy() for image_CHW in images_BCHW)
    quantise_onnx(onnx.load_from_string(onnx_bytes), partial(place, wanted=assignment), singles, path)
    return torch.from_numpy(OnnxNetwork(path)(images_BCHW))


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "w4", "w2"])
def test_fake_quantisation_is_what_the_runtime_does(
    vit: tuple[nn.Module, bytes], tmp_path: Path, precision: Precision
) -> None:
    """Number by number in one layer; in all of them a number that is rounded otherwise changes those behind it."""
    network, onnx_bytes = vit
    images_BCHW = random_images(32)
    ranges, layers = inputs_of_layers(network, images_BCHW), inner_layers(network)
    with torch.no_grad():
        expected_BK = network(images_BCHW)
    one: dict[str, Precision] = {layers[2]: precision}
    fake_BK = logits_in(network, images_BCHW, one, ranges)
    found_BK = in_the_runtime(onnx_bytes, one, images_BCHW, tmp_path / "one.onnx")
    assert (fake_BK - found_BK).abs().max() < 0.05 * (expected_BK - found_BK).abs().max()
    every = dict.fromkeys(layers, precision)
    fake = divergence(expected_BK, logits_in(network, images_BCHW, every, ranges))
    found = divergence(expected_BK, in_the_runtime(onnx_bytes, every, images_BCHW, tmp_path / "all.onnx"))
    assert fake == pytest.approx(found, rel=0.1)


def test_gradients_pass_through_the_rounding() -> None:
    network = random_vit()
    ranges = inputs_of_layers(network, random_images(2))
    mode = FakeQuantisation(network, dict.fromkeys(inner_layers(network), "int8"), ranges)
    mode.run(network, random_images(2)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


def test_layers_are_sensitive_where_they_lose() -> None:
    network, images_BCHW = random_vit(), random_images(8)
    layers = inner_layers(network)
    with torch.no_grad():
        network.get_submodule("blocks.1.mlp.fc1").weight[:, ::16] *= 30  # type: ignore[index,operator]
    found = sensitivities(
        network, images_BCHW, inputs_of_layers(network, images_BCHW), dict.fromkeys(layers, ("fp32", "w4", "w2"))
    )
    assert list(found) == layers
    assert all(each["fp32"] == 0 < each["w4"] < each["w2"] for each in found.values())
    assert max(found, key=lambda name: found[name]["w4"]) == "blocks.1.mlp.fc1"
    assert weighted_layers(network, images_BCHW[:1])[0].reads_image


def layer_options(generator: np.random.Generator, count: int = 8) -> list[LayerOptions]:
    """Random layers in three precisions, some of which share the tensor that they read."""
    layers = []
    for number in range(count):
        ms, size, loss = generator.random(3) + 0.1
        options = (
            Option("fp32", 0.0, ms, 4 * size),
            Option("int8", loss, ms * generator.uniform(0.2, 1.1), size),
            Option("w4", 3 * loss, 1.1 * ms, 0.6 * size),
        )
        layers.append(LayerOptions(f"layer{number}", options, f"tensor{number // 2}", 0.05))
    return layers


def brute_force(layers: list[LayerOptions], limit_ms: float, limit_bytes: float) -> float | None:
    best = None
    for chosen in itertools.product(*(layer.options for layer in layers)):
        quantised = {layer.source for layer, option in zip(layers, chosen, strict=True) if option.precision == "int8"}
        ms = sum(option.ms for option in chosen) + 0.05 * len(quantised)
        loss = sum(option.loss for option in chosen)
        if ms <= limit_ms and sum(option.size for option in chosen) <= limit_bytes and (best is None or loss < best):
            best = loss
    return best


@pytest.mark.parametrize("seed", range(4))
def test_the_program_is_exact(seed: int) -> None:
    generator = np.random.default_rng(seed)
    layers = layer_options(generator)
    ms, size = (sum(vars(layer.options[0])[what] for layer in layers) for what in ("ms", "size"))
    limit_ms, limit_bytes = ms * generator.uniform(0.5, 1), size * generator.uniform(0.2, 0.9)
    found, expected = assign(layers, limit_ms, limit_bytes), brute_force(layers, limit_ms, limit_bytes)
    assert (found is None) == (expected is None)
    if found is not None:
        assert found.loss == pytest.approx(expected, abs=1e-6)
        assert found.ms <= limit_ms * (1 + 1e-6)
        assert found.size <= limit_bytes * (1 + 1e-6)


def test_a_front_loses_more_the_cheaper_it_gets() -> None:
    layers = layer_options(np.random.default_rng(0))
    front = assignments(layers)
    assert front[0].loss == 0
    assert assign(layers, limit_ms=front[-1].ms * (1 - 1e-4)) is None  # nothing is faster than its end
    assert len(front) > 4
    for dearer, cheaper in itertools.pairwise(front):
        assert (dearer.loss, cheaper.ms) <= (cheaper.loss, dearer.ms)
    with pytest.raises(UsageError, match="no precisions are within the limits: expected at least"):
        assignments(layers, limit_ms=0.01)


def test_divergence_is_zero_of_equals_alone() -> None:
    logits_BK: Tensor = torch.randn(6, 5)
    assert divergence(logits_BK, logits_BK) == pytest.approx(0)
    assert divergence(logits_BK, logits_BK + 3) == pytest.approx(0, abs=1e-9)
    assert divergence(logits_BK, 2 * logits_BK) > 0.01
