"""Every runtime against the contract, how a missing one is told, and what single ones promise beyond it."""

from __future__ import annotations

import pickle
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from latency_tables.errors import ProfileError, TableError
from latency_tables.predictor import LatencyPredictor
from latency_tables.runtimes import Runtime, RuntimeMissingError, get_runtime, register_runtime, runtime_names
from latency_tables.runtimes.onnx_file import write_onnx
from latency_tables.runtimes.onnx_runtime import make_session
from latency_tables.runtimes.torch_eager import check_program
from latency_tables.table import LatencyTable
from latency_tables.targets import load_target
from latency_tables.worker import random_image
from nas.testing import RuntimeContract
from search_spaces import UnknownNameError, get_space, plugins

SLOW = ("litert", "executorch", "onnxruntime-web", "onnxruntime-web:webgpu", "torch:compiled")


def registered(name: str) -> type[RuntimeContract]:
    class Registered(RuntimeContract):
        def make_runtime(self) -> Runtime:
            return get_runtime(name)

    return pytest.mark.slow(Registered) if name in SLOW else Registered


globals().update({f"Test {name}": registered(name) for name in runtime_names()})


def test_a_missing_environment_is_told_with_the_commands_that_make_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("NAS_LITERT_PYTHON", raising=False)
    with pytest.raises(RuntimeMissingError, match="`litert`: `ai_edge_litert` is not installed") as caught:
        get_runtime("litert").python()
    folder = tmp_path / "environments" / "litert"
    assert f"python -m venv {folder} && {folder}/bin/pip install " in caught.value.hint
    assert "litert-torch==0.10.0" in caught.value.hint
    assert "NAS_LITERT_PYTHON" in caught.value.hint
    monkeypatch.setenv("NAS_LITERT_PYTHON", str(tmp_path / "no-python"))
    with pytest.raises(RuntimeMissingError, match="found no program"):
        get_runtime("litert").python()


@pytest.mark.parametrize("name", ["onnxruntime", "torch"])
def test_a_batch_of_several_images_is_computed_at_once(name: str, tmp_path: Path) -> None:
    network, runtime = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval(), get_runtime(name)
    image_BCHW = torch.from_numpy(random_image([3, 3, 8, 8]))
    with torch.inference_mode():
        expected = network(image_BCHW).numpy()
    path = tmp_path / f"network{runtime.suffix}"
    runtime.write(network, (3, 8, 8), path, batch=3)
    run, _ = runtime.load(str(path), 1, [3, 3, 8, 8])
    np.testing.assert_allclose(run(image_BCHW.numpy()), expected, atol=1e-5)


def test_runtimes_are_found_by_name() -> None:
    assert {"onnxruntime", "openvino", "torch", "litert", "executorch"} <= set(runtime_names())
    with pytest.raises(UnknownNameError, match="onnxruntim"):
        get_runtime("onnxruntim")
    with pytest.raises(ValueError, match="registered already"):
        register_runtime(get_runtime("torch"))


PLUGIN = """
from latency_tables.kernels import Fusion
from latency_tables.runtimes.onnx_runtime import OnnxRuntime, load_session

EVERYTHING = Fusion("everything", frozenset({"gelu"}), frozenset({"gelu"}), True, True, frozenset({""}), True)


class Npu(OnnxRuntime):
    name = "npu"
    title = "NPU toolkit"
    fusion = EVERYTHING


NPU = Npu()
"""


def test_a_runtime_from_outside_is_one_file_and_an_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "somebodys_runtime.py").write_text(PLUGIN)
    installed = tmp_path / "somebodys_runtime-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys-runtime\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[nas.runtimes]\nnpu = somebodys_runtime:NPU\n")
    table = load_target("pixel6").model_dump(mode="json", by_alias=True)
    table["runtime"] = {"name": "NPU toolkit", "fusion": "everything"}
    with pytest.raises(TableError, match=r"field `runtime.fusion`: found unknown fusion: `everything`"):
        LatencyTable.from_dict(table, "npu")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.installed.cache_clear()
    try:
        assert "npu" in runtime_names()
        assert get_runtime("npu").title == "NPU toolkit"
        predictor = LatencyPredictor(LatencyTable.from_dict(table, "npu"))
        space = get_space("elastic-mini")
        assert predictor.graph(space.lower(space.smallest)).ms > 0
    finally:
        monkeypatch.undo()
        plugins.installed.cache_clear()
    assert "npu" not in runtime_names()


@pytest.mark.slow  # the newer exporter takes its time
def test_both_exporters_give_the_same_kernels(tmp_path: Path) -> None:
    from nas.networks.onnx import export_onnx
    from supernets import build_network

    space = get_space("elastic-mini")
    network = build_network(space, space.smallest).eval()
    channels, side, _ = space.input_shape(dict(space.smallest.settings))
    write_onnx(network, (channels, side, side), tmp_path / "fast.onnx")
    export_onnx(network, side, tmp_path / "delivered.onnx")
    fast, delivered = (kernels(tmp_path / f"{name}.onnx") for name in ("fast", "delivered"))
    assert fast == delivered
    assert fast["ReduceMean"] > 1


def kernels(path: Path) -> Counter[str]:
    """Operators of the optimised graph, but for those that move no data."""
    optimised = path.with_suffix(".optimised.onnx")
    make_session(str(path), optimised=str(optimised))
    nodes = onnx.load(str(optimised), load_external_data=False).graph.node
    return Counter(node.op_type for node in nodes if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze"))


def test_a_program_with_a_pickled_object_is_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)).eval()
    path = tmp_path / "network.pt2"
    get_runtime("torch").write(network, (3, 32, 32), path)
    check_program(str(path))
    opaque = b'{"config": {"x": {"path_name": "opaque_obj_0", "use_pickle": true}}}'
    for member, content in (
        ("model/data/weights/model.pt", pickle.dumps(print)),
        ("model/data/constants/opaque_constants_config.json", opaque),
    ):
        tampered = tmp_path / "tampered.pt2"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(tampered, "w") as archive:
            for name in source.namelist():
                archive.writestr(name, source.read(name))
            archive.writestr(member, content)
        with pytest.raises(ValueError, match="expected tensors only"):
            check_program(str(tampered))


def test_what_cannot_be_exported_is_one_clear_error(tmp_path: Path) -> None:
    class Choosing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if bool(x.sum() > 0) else -x

    with pytest.raises(ProfileError, match="cannot be exported"):
        get_runtime("torch").write(Choosing(), (3, 8, 8), tmp_path / "choosing.pt2")
    assert list(tmp_path.iterdir()) == []
