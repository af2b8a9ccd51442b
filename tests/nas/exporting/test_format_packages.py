"""Formats of packages that need not be installed: OpenVINO's in integers, and Core ML."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from latency_tables.runtimes import get_runtime
from nas.errors import MissingDependencyError, UsageError
from nas.exporting.formats.base import ExportedNetwork
from nas.exporting.formats.coreml import COREML
from nas.exporting.formats.openvino import OPENVINO_INT8, PACKAGE, offer
from nas.networks.onnx import export_onnx
from search_spaces import get_space
from supernets import build_network

SPACE = get_space("timm:vit_tiny_patch16_224?img_size=32&patch_size=8&depth=2&embed_dim=64&num_heads=2", classes=4)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> ExportedNetwork:
    torch.manual_seed(0)
    module, path = build_network(SPACE, SPACE.largest).eval(), tmp_path_factory.mktemp("network") / "model.onnx"
    export_onnx(module, 32, path)
    images_BCHW = torch.randn(16, 3, 32, 32)
    return ExportedNetwork(module, path, images_BCHW, lambda: [images_BCHW])


def test_openvino_in_integers_tells_what_it_quantised(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for module in ("openvino", "nncf"):
        pytest.importorskip(module)
    source: ExportedNetwork = request.getfixturevalue("network")
    path = tmp_path / OPENVINO_INT8.file
    facts = OPENVINO_INT8.write(source, path)
    assert facts["calibration_images"] == 16
    assert facts["integer_macs"] > 0.8
    assert facts["kl_calibration"] < 1e-2
    _, precision = get_runtime(OPENVINO_INT8.runtime).load(str(path), 1, [1, 3, 32, 32])
    assert precision == "int8"
    weights = sum((tmp_path / name).stat().st_size for name in OPENVINO_INT8.beside)
    assert weights < 0.6 * source.onnx.stat().st_size
    if "bf16" in facts:
        assert facts["bf16"]["kl"] < 1e-3


def test_integers_need_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPENVINO_INT8, "packages", {})
    with pytest.raises(UsageError, match="calibrated on training images, found random weights"):
        OPENVINO_INT8.check(SPACE, False)


def test_formats_of_openvino_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPENVINO_INT8, "packages", {"no_such_module": PACKAGE})
    with pytest.raises(MissingDependencyError, match="`no_such_module` is not installed") as caught:
        OPENVINO_INT8.check(SPACE, True)
    assert (caught.value.exit_code, caught.value.hint) == (5, 'pip install "nas-vit[openvino]"')


def test_bf16_is_offered_where_it_is_nearly_as_fast_as_integers() -> None:
    assert offer(1.12, 1.0, 2.5e-5) is None
    assert str(offer(1.08, 1.0, 2.5e-5)).startswith("bf16 takes 1.08 ms in OpenVINO, int8 1 ms, with a KL of 2.5e-05")


def test_core_ml_is_written_where_it_can_be_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(MissingDependencyError, match="Core ML runs on macOS alone") as caught:
        COREML.check(SPACE, True)
    assert caught.value.hint == "copy the run folder to a Mac, and export it there"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(COREML, "packages", {"no_such_module": "nas-vit[coreml]"})
    with pytest.raises(MissingDependencyError, match="`no_such_module` is not installed"):
        COREML.check(SPACE, True)


def test_core_ml_packages_are_converted_anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    COREML.write(request.getfixturevalue("network"), tmp_path / COREML.file)
    assert (tmp_path / COREML.file / "Manifest.json").exists()
