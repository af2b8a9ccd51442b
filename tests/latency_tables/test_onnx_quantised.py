"""ONNX files with integers inside: where quantisers stand, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from latency_tables import device_runner, onnx_quantised
from latency_tables.device_runner import PROFILE_WARM_UP, DeviceRunner, NetworkFile
from latency_tables.errors import ProfileError
from latency_tables.kernels import fuse
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.onnx_quantised import INTEGER_KERNELS, Layer, kernels_of, name_layers, place, quantise_onnx
from latency_tables.profile import match, read_profile
from latency_tables.runtimes import get_runtime
from latency_tables.runtimes.onnx_file import exported_model
from latency_tables.trace import trace
from latency_tables.transports.local import LocalTransport
from tests.support.quantised import random_vit

LAYERS = [
    Layer("stem", "Conv", (8, 3, 3, 3), 1, True),
    Layer("deep", "Conv", (8, 1, 3, 3), 8, False),
    Layer("wide", "Conv", (8, 8, 1, 1), 1, False),
    Layer("head", "Gemm", (10, 8), 1, False),
]


def test_placement_follows_from_layers_alone() -> None:
    placed = place(LAYERS, "int8")
    assert placed.precisions == {"deep": "int8", "wide": "int8", "head": "int8"}
    assert list(placed.left_out) == ["stem"]
    assert place(LAYERS, "int8", depthwise=False).left_out["deep"] == "depthwise convolutions are faster in fp32"
    assert place(LAYERS, "w4").precisions == {"head": "w4"}
    assert place(LAYERS, "w4").left_out["wide"] == "ONNX Runtime has no convolution in w4"
    assert place(LAYERS, {"wide": "int8", "stem": "int8"}).precisions == {"wide": "int8"}
    stacked = Layer("positions", "MatMul", (4, 8, 8), 1, False)
    assert place([stacked], "int8").left_out["positions"].startswith("its weight has 3 dimensions")


def test_weights_lose_a_bit_where_products_of_bytes_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_quantised.platform, "machine", lambda: "x86_64")
    for flags, reduces in (((), True), (("avx2",), True), (("avx512_vnni",), False), (("avx_vnni",), False)):
        monkeypatch.setattr(onnx_quantised, "processor_flags", lambda flags=flags: flags)
        assert place(LAYERS, "int8").reduces_range == reduces
    monkeypatch.setattr(onnx_quantised.platform, "machine", lambda: "aarch64")
    assert not place(LAYERS, "int8").reduces_range


@pytest.fixture(scope="module")
def vit() -> onnx.ModelProto:
    return exported_model(random_vit(), (3, 32, 32))


@pytest.fixture
def model(vit: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(vit)
    return copied


def images(count: int = 4) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(0)
    return (generator.standard_normal((1, 3, 32, 32)).astype(np.float32) for _ in range(count))


def test_layers_have_the_names_of_their_modules(model: onnx.ModelProto) -> None:
    layers = name_layers(model)
    inner = [f"blocks.{block}.{name}" for block in (0, 1) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    assert [layer.name for layer in layers] == ["patch_embed.proj", *inner, "head"]
    assert [layer.reads_image for layer in layers] == [True, *[False] * 9]


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "w4", "w2"])
def test_every_layer_but_the_first_computes_in_integers(
    model: onnx.ModelProto, tmp_path: Path, precision: onnx_quantised.Precision
) -> None:
    """No softmax between quantisers, no product with weights in floats, no weight that is unpacked at every run."""
    path = tmp_path / "model.onnx"
    quantise_onnx(model, partial(place, wanted=precision), images(), path)
    found = kernels_of(path)
    assert sum(found[name] for name in INTEGER_KERNELS) == 9
    assert not {"QLinearSoftmax", "Gemm", "DequantizeLinear"} & set(found)
    assert (found["Conv"], found["MatMul"] + found["FusedMatMul"]) == (1, 4)


def test_precisions_mix_and_equal_inputs_give_equal_bytes(model: onnx.ModelProto, tmp_path: Path) -> None:
    wanted: dict[str, onnx_quantised.Precision] = {
        "blocks.0.attn.qkv": "int8",
        "blocks.0.mlp.fc1": "w4",
        "blocks.1.mlp.fc2": "int8-dynamic",
        "head": "w2",
    }
    paths = [tmp_path / "first.onnx", tmp_path / "second.onnx"]
    for path in paths:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        placed = quantise_onnx(copied, partial(place, wanted=wanted), images(), path)
    assert dict(placed.precisions) == wanted
    found = kernels_of(paths[0])
    assert (found["QGemm"], found["MatMulNBits"]) == (1, 2)
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 1
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_file_without_the_integers_asked_for_is_refused(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_quantised, "INTEGER_KERNELS", frozenset({"QGemv"}))
    with pytest.raises(ProfileError, match="ONNX Runtime computes 0 layers in integers, expected 9"):
        quantise_onnx(model, partial(place, wanted="int8"), images(), tmp_path / "model.onnx")


def test_a_layer_that_gets_no_integers_stays_in_fp32_and_is_named(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = onnx_quantised._optimised
    monkeypatch.setattr(
        onnx_quantised, "_optimised", lambda path: [each for each in look(path) if not each[1].startswith("head")]
    )
    placed = quantise_onnx(model, partial(place, wanted="w4"), [], tmp_path / "model.onnx")
    assert len(placed.precisions) == 8
    assert placed.left_out["head"] == "ONNX Runtime has no integers for it here"
    found = Counter(operator for operator, _ in look(tmp_path / "model.onnx"))
    assert (found["MatMulNBits"], found["Gemm"]) == (8, 1)


def test_profiles_of_integer_networks_are_matched_to_kernels(tmp_path: Path) -> None:
    network, path, runtime = random_vit(depth=1), tmp_path / "network.onnx", get_runtime("onnxruntime@int8")
    runtime.write(network, (3, 32, 32), path)
    with LocalTransport() as transport:
        runner = DeviceRunner(runtime, transport)
        (files,) = device_runner.profile(runner, [NetworkFile(path)], tmp_path / "profiles", MeasurementJournal())
    profile = match(
        fuse(list(trace(network, (3, 32, 32)).ops()), runtime.fusion), read_profile(*files, PROFILE_WARM_UP)
    )
    assert not [key for key in profile.unmatched if "int8" in key or "quantize" in key]
    classes = Counter(sample.kernel.op for sample in profile.samples)
    assert (classes["linear@int8"], classes["linear"], classes["quantize"]) == (5, 0, 5)
