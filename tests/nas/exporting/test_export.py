"""Exported networks: complete, proven, loadable without this project, and never half there."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.errors import NasError, RunError, UsageError
from nas.exporting.export import Export, ExportRequest, ProofError, export_subnet, load
from nas.networks.onnx import OnnxNetwork
from search_spaces import get_space
from supernets import Supernet

SPACE = get_space("elastic-mini")
ARCHITECTURE = SPACE.from_values({**dict(SPACE.smallest.settings), "input.side": 24, "T2.depth": 2, "C1.kernel": 5})


def batches() -> list[torch.Tensor]:
    return [torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Export:
    request = ExportRequest(
        SPACE, ARCHITECTURE, Supernet(SPACE, seed=1), batches(), card={"latency": {}}, image={"mean": [0.5], "std": [1]}
    )
    return export_subnet(request, tmp_path_factory.mktemp("export") / "knee")


def test_forms_agree(export: Export) -> None:
    assert export.proof["active_subnet_difference"] <= 1e-6
    assert export.proof["checkpoint_weights_equal"] is True
    assert export.proof["checkpoint_difference"] <= 1e-6
    assert export.proof["onnx_difference"] < 1e-4
    names = {path.name for path in export.folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "elasticvit.py", "model.onnx", "proof.json", "README.md"}
    assert not [path for path in export.folder.parent.iterdir() if path != export.folder]


def test_batch_norm_statistics_are_the_calibration_images(export: Export) -> None:
    network = load(export.folder)
    assert not torch.allclose(network.get_buffer("head.norm.running_var"), torch.ones(1))
    assert network.get_buffer("head.norm.num_batches_tracked") == 2


def test_plain_torch_loads_it_without_this_project(export: Export, tmp_path: Path) -> None:
    script = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nas", "supernets", "search_spaces", "latency_tables", "timm"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import torch
from elasticvit import ElasticViT
from safetensors.torch import load_file
model = ElasticViT(json.load(open(sys.argv[1] + "/config.json"))["network"]).eval()
model.load_state_dict(load_file(sys.argv[1] + "/model.safetensors"))
image = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
print(json.dumps(model(image).tolist()))
"""
    command = [sys.executable, "-c", script, str(export.folder)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout)
    image = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    network = load(export.folder)
    with torch.no_grad():
        assert np.allclose(found, network(image).numpy(), atol=1e-6)
        resized = network.preprocess(image)  # type: ignore[operator]
        assert np.allclose(OnnxNetwork(export.onnx)(resized), found, atol=1e-4)


def test_card_and_metadata_of_trained_weights(export: Export) -> None:
    card = (export.folder / "README.md").read_text()
    assert "random" not in card
    assert "24 x 24 pixels" in card
    assert "subtract (0.5) and divide by (1)" in card


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network that nobody has trained."""
    return export_subnet(ExportRequest(SPACE, ARCHITECTURE), tmp_path_factory.mktemp("untrained") / "out").folder


def test_random_weights_are_announced_everywhere(untrained: Path) -> None:
    import onnx
    from safetensors import safe_open

    folder = untrained
    assert "These weights are random" in (folder / "README.md").read_text()
    assert json.loads((folder / "config.json").read_text())["trained"] is False
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert file.metadata()["trained"] == "false"
    model = onnx.load(str(folder / "model.onnx"))
    assert {entry.key: entry.value for entry in model.metadata_props}["trained"] == "false"


def test_a_disagreement_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = OnnxNetwork.__call__
    monkeypatch.setattr(OnnxNetwork, "__call__", lambda self, x: honest(self, x) * 1.1)
    with pytest.raises(ProofError, match=r"`model\.onnx` gives logits that differ"):
        export_subnet(ExportRequest(SPACE, ARCHITECTURE), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_batches_of_any_size_are_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    request = ExportRequest(SPACE, SPACE.smallest, dynamic_batch=True)
    export = export_subnet(request, tmp_path / "out")
    assert max(export.proof["formats"]["onnx"]["batches"].values()) < 1e-4
    assert list(export.proof["formats"]["onnx"]["batches"]) == ["1", "7"]
    assert "batch of any size in the ONNX file" in (export.folder / "README.md").read_text(encoding="utf-8")
    session, network = onnxruntime.InferenceSession(export.onnx), load(export.folder)
    for size in (1, 3, 7):
        images_BCHW = torch.randn(size, 3, 16, 16)
        (found_BK,) = session.run(None, {"image": images_BCHW.numpy()})
        with torch.no_grad():
            assert np.allclose(found_BK, network(images_BCHW).numpy(), atol=1e-5)
    honest = OnnxNetwork.together
    monkeypatch.setattr(OnnxNetwork, "together", lambda self, x: honest(self, x) * (1.1 if len(x) > 1 else 1))
    with pytest.raises(ProofError, match=r"`model\.onnx` on 7 images at once gives logits that differ"):
        export_subnet(request, tmp_path / "wrong")
    for form in ("onnx-int8-dynamic", "onnx-w4"):
        with pytest.raises(UsageError, match=f"format `{form}` takes one image at a time"):
            export_subnet(replace(request, formats=(form,), supernet=Supernet(SPACE)), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_failed_export_keeps_the_earlier_one(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(untrained, tmp_path / "out"))
    before = (folder / "model.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nas.exporting.export.export_onnx", full)
    with pytest.raises(NasError, match="No space left on device"):
        export_subnet(ExportRequest(SPACE, SPACE.smallest, seed=5), tmp_path / "out")
    assert (folder / "model.safetensors").read_bytes() == before
    assert list(tmp_path.iterdir()) == [folder]


def test_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(NasError, match="no exported network"):
        export_subnet(ExportRequest(SPACE, ARCHITECTURE), tmp_path / "photos")


def test_damaged_exports_are_refused(export: Export, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(export.folder, folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(RunError, match=r"model\.safetensors` cannot be used"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "schema": 99}))
    with pytest.raises(RunError, match="schema 99, expected 1"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        load(folder)
    with pytest.raises(RunError, match="cannot be read"):
        load(tmp_path / "nowhere")
