"""Networks inside timm models as they are shipped: loaded by timm alone, one small file, or ONNX Runtime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from latency_tables.repeats import Protocol
from latency_tables.runtimes.base import RuntimeMissingError
from nas.errors import UsageError
from nas.exporting.export import Export, ExportRequest, export_subnet, load
from nas.exporting.formats import measured
from nas.exporting.formats.checkpoint import needed_packages
from nas.exporting.formats.registry import parse_formats
from search_spaces import Architecture, UnknownNameError, get_space
from search_spaces.timm_models import TimmSpace
from supernets import Supernet
from supernets.networks.timm_subnet import build_subnet
from supernets.timm_models.export import subnet_config
from supernets.timm_models.loading import load_timm_supernet

MODEL = "vit_tiny_patch16_224?img_size=32&patch_size=8&depth=3&embed_dim=48&num_heads=3"
IMAGE = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), "class_names": [f"class {i}" for i in range(10)]}
HIDE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import json, numpy as np
folder, images = sys.argv[1], np.load(sys.argv[2])
"""
OURS = ("nas", "supernets", "search_spaces", "latency_tables")


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    supernet = load_timm_supernet(MODEL, classes=10)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in supernet.state_dict().values():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return supernet


def calibration() -> list[torch.Tensor]:
    return [torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))]


def exported(supernet: Supernet, architecture: Architecture, folder: Path, formats: tuple[str, ...] = ()) -> Export:
    request = ExportRequest(supernet.space, architecture, supernet, calibration(), image=IMAGE, formats=formats)
    return export_subnet(request, folder)


def mixed(supernet: Supernet) -> Architecture:
    space = supernet.space
    assert isinstance(space, TimmSpace)
    sizes = {"input.patch": 16, "depth": 2, "blocks.0.hidden": 96, "blocks.2.heads": 1}
    return space.from_values({**dict(space.largest.settings), **sizes})


def logits_elsewhere(
    folder: Path, images: torch.Tensor, code: str, hidden: tuple[str, ...], tmp_path: Path
) -> np.ndarray:
    """Logits computed by a Python that cannot import some packages."""
    np.save(tmp_path / "images.npy", images.numpy())
    script = HIDE.replace("HIDDEN", repr(hidden)) + code + "\nprint(json.dumps(np.asarray(logits).tolist()))"
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "images.npy")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    return np.array(json.loads(ended.stdout))


def check_packages_are_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["requires"]["timm"] == config["network"]["timm"] == "1.0.23"
    assert config["made_with"] == {name: version(name) for name in ("torch", "timm")}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"'torch>={config['requires']['torch']}' 'timm>=1.0.23' safetensors" in card


@pytest.mark.parametrize(
    ("model", "release"),
    [
        ("swin_tiny_patch4_window7_224?img_size=56&depths=[1,1,1,1]&embed_dim=24", "1.0.31"),
        ("pit_ti_distilled_224?img_size=64&base_dims=[16,24,24]&heads=[2,4,8]&depth=[1,1,1]", "1.0.25"),
    ],
)
def test_families_that_older_releases_compute_otherwise_need_a_later_one(
    model: str, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = get_space(f"timm:{model}", classes=3)
    assert isinstance(space, TimmSpace)
    config = subnet_config(space, space.smallest)
    assert needed_packages(config)["timm"] == release
    monkeypatch.setattr(timm, "__version__", "1.0.24")
    with pytest.raises(ImportError, match=f"timm {release} or later, found 1.0.24"):
        build_subnet(config, {})


@pytest.mark.parametrize(("side", "patch"), [pytest.param(24, 8, marks=pytest.mark.slow), (32, 16)])
def test_timm_alone_loads_a_network_of_equal_blocks(supernet: Supernet, side: int, patch: int, tmp_path: Path) -> None:
    space = supernet.space
    values = dict(space.middle.settings) | {"input.side": side, "input.patch": patch, "tokens.r": 0}
    values |= {choice.name: choice.values[-1] for choice in space.choices if choice.name.endswith(".rank")}
    architecture = space.from_values(values)
    export = exported(supernet, architecture, tmp_path / "knee", ("timm",))
    assert export.proof["timm_difference"] <= 1e-6
    config = json.loads((export.folder / "config.json").read_text(encoding="utf-8"))
    assert (config["architecture"], config["num_classes"]) == ("vit_tiny_patch16_224", 10)
    assert config["pretrained_cfg"]["mean"] == [0.4, 0.5, 0.6]
    check_packages_are_named(export.folder)
    assert not list(export.folder.glob("*.py"))
    assert config["network"]["input_side"] == side
    images = torch.randn(200, 3, side, side, generator=torch.Generator().manual_seed(4))
    code = 'import timm, torch\nmodel = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()\n'
    code += "with torch.no_grad(): logits = model(torch.from_numpy(images)).numpy()"
    found = logits_elsewhere(export.folder, images, code, OURS, tmp_path)
    with torch.no_grad():
        expected = supernet.extract(architecture).eval()(images).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert np.mean(found.argmax(axis=1) == expected.argmax(axis=1)) >= 0.999


def test_one_file_rebuilds_any_other_network(
    supernet: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = exported(supernet, mixed(supernet), tmp_path / "knee", ("timm",))
    assert "timm_difference" not in export.proof
    config = json.loads((export.folder / "config.json").read_text(encoding="utf-8"))
    assert "architecture" not in config
    check_packages_are_named(export.folder)
    for release in ("0.9.16", "1.0.22", "1.0.9"):
        monkeypatch.setattr(timm, "__version__", release)
        with pytest.raises(ImportError, match=rf"timm 1.0.23 or later, found {release}: pip install 'timm>=1.0.23'"):
            build_subnet(config["network"], {})
    monkeypatch.undo()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    code = "import torch\nfrom safetensors.torch import load_file\nfrom timm_subnet import build_subnet\n"
    code += 'model = build_subnet(json.load(open(folder + "/config.json"))["network"], '
    code += 'load_file(folder + "/model.safetensors"))\n'
    code += "with torch.no_grad(): logits = model(torch.from_numpy(images)).numpy()"
    found = logits_elsewhere(export.folder, images, code, OURS, tmp_path)
    with torch.no_grad():
        assert np.abs(found - load(export.folder)(images).numpy()).max() < 1e-4


def test_onnx_runtime_alone_runs_it(supernet: Supernet, tmp_path: Path) -> None:
    export = exported(supernet, mixed(supernet), tmp_path / "knee")
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    code = 'import onnxruntime\nsession = onnxruntime.InferenceSession(folder + "/model.onnx")\n'
    code += 'logits = np.concatenate([session.run(["logits"], {"image": image[None]})[0] for image in images])'
    found = logits_elsewhere(export.folder, images, code, (*OURS, "torch", "timm"), tmp_path)
    with torch.no_grad():
        expected = load(export.folder)(images).numpy()
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_reduced_precision_is_written_and_measured_beside_fp32(
    supernet: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "ONE", Protocol(rounds=1, rounds_limit=1, runs=3, seconds=0.001, restarts=0))
    images = torch.randn(20, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        labels = supernet(images, mixed(supernet)).argmax(dim=1)

    def measure(folder: Path, files: dict[str, str]) -> dict[str, dict[str, object]]:
        return measured.measure_files(folder, files, measured.Images([(images, labels)], "the network's own words"))

    request = ExportRequest(
        supernet.space,
        mixed(supernet),
        supernet,
        calibration(),
        formats=parse_formats("onnx-int8,onnx-fp16"),
        measure=measure,  # type: ignore[arg-type]
    )
    export = export_subnet(request, tmp_path / "knee")
    found = export.proof["formats"]
    assert list(found) == ["onnx", "onnx-fp16", "onnx-int8"]
    assert found["onnx"]["accuracy"] == 1.0
    assert found["onnx-fp16"]["accuracy"] >= 0.9
    assert found["onnx-fp16"]["difference"] < 0.02 < found["onnx"]["bytes"]
    assert found["onnx-int8"]["bytes"] < 0.6 * found["onnx"]["bytes"]
    for name in ("onnx-fp16", "onnx-int8"):
        ratio, verdict = found[name]["latency_ratio"], found[name]["verdict"]
        assert ("slower" in verdict) == (ratio > 1 + measured.SAME)
    assert "`model.int8.onnx`" in (export.folder / "README.md").read_text(encoding="utf-8")


def test_formats_that_cannot_be_written_are_refused(
    supernet: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parse_formats(["onnx", "timm", "onnx"]) == ("timm", "onnx")
    with pytest.raises(UnknownNameError, match="unknown export format: `onx-int8`"):
        parse_formats("onx-int8")
    elastic = get_space("elastic-mini")
    with pytest.raises(UsageError, match="are not timm models"):
        export_subnet(ExportRequest(elastic, elastic.smallest, formats=("timm",)), tmp_path / "knee")
    with pytest.raises(UsageError, match="calibrated on training images"):
        export_subnet(ExportRequest(supernet.space, supernet.space.smallest, formats=("onnx-int8",)), tmp_path / "knee")
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NAS_LITERT_PYTHON", raising=False)
    with pytest.raises(RuntimeMissingError) as caught:
        exported(supernet, supernet.space.smallest, tmp_path / "knee", ("litert",))
    assert "pip install" in caught.value.hint
    assert not list(tmp_path.iterdir())
