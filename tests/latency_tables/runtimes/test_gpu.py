"""GPUs, recorded: engines and their caches, the clock of events, throttling, and what is refused without a driver."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from latency_tables import LatencyPredictor, LatencyTable, device_runner, load_target
from latency_tables.build import SampledNetwork, build_table
from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.errors import BusyMachineError, ProfileError
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import Protocol
from latency_tables.runtimes import RuntimeMissingError, get_runtime, name_in_precision, name_with_provider
from latency_tables.runtimes.onnx_providers import load_on_provider
from latency_tables.targets import user_table_path
from latency_tables.transports import open_transport
from latency_tables.worker import digest, random_image
from nas.cli.main import app
from search_spaces import OpGraph, UnknownNameError, get_space
from tests.support.onnx_networks import network_ops, save_network

RECORDED = Path(__file__).parents[2] / "support" / "recorded_gpu"
BRIEF = Protocol(rounds=2, rounds_limit=2, warm_up_runs=1, warm_up_seconds=0.0, runs=3, seconds=0.0, restarts=0)
STATE = {
    "name": "Recorded A10",
    "driver_version": "570.86",
    "clocks.max.sm": 1695,
    "clocks.sm": 1600,
    "temperature.gpu": 55,
}
IDLE, POWER, HOT = "0x0000000000000001", "0x0000000000000004", "0x0000000000000020"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "gpu"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(STATE))
    (folder / "reasons").write_text(IDLE)
    monkeypatch.setenv("RECORDED_GPU", str(folder))
    monkeypatch.setenv("RECORDED_PYTHON", sys.executable)
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(device_runner, "COOL_SECONDS", 0.0)
    monkeypatch.setattr(device_runner, "_WORKER", _patient_worker(tmp_path))
    return folder


def _patient_worker(folder: Path) -> Path:
    """The worker, which looks at the clock without running for a while in between."""
    file = folder / "worker.py"
    text = device_runner._WORKER.read_text()
    file.write_text(
        text.replace("SETTLE_SECONDS, SETTLE_LIMIT_SECONDS = 0.05", "SETTLE_SECONDS, SETTLE_LIMIT_SECONDS = 0.0")
    )
    return file


def build(folder: Path, journal: MeasurementJournal | None = None) -> LatencyTable:
    networks = []
    for width, depth in [(16, 1), (16, 2), (32, 1), (32, 2), (64, 1), (64, 2)]:
        path = folder / f"{width}-{depth}.onnx"
        save_network(path, width, depth)
        networks.append(SampledNetwork(path.stem, OpGraph([("network", network_ops(width, depth))], (8, 16, 16)), path))
    with open_transport("local") as transport:
        runner = DeviceRunner(get_runtime("tensorrt"), transport, str(RECORDED / "python"))
        return build_table(networks, runner, folder, protocol=BRIEF, journal=journal)


def test_a_table_of_a_gpu(gpu: Path, tmp_path: Path) -> None:
    (gpu / "reasons").write_text(POWER)
    table = build(tmp_path)
    assert (table.runtime.name, table.runtime.version, table.runtime.provider) == ("TensorRT", "10.16.1", "cuda")
    protocol = table.provenance.protocol
    assert (protocol["accelerator"], protocol["driver"], protocol["highest_clock_khz"]) == (
        "Recorded A10",
        "570.86",
        1695000,
    )
    sizes = {path.stem: path.stat().st_size for path in tmp_path.glob("*.onnx")}
    for row in table.validation.rows:  # by the GPU's events, not by the time that the call took
        assert row.measured_ms == pytest.approx(sizes[row.network] * 1e-6, rel=0.01)
    assert "the accelerator was at its power limit in 100% of the repeats" in table.provenance.notes
    assert len((gpu / "builds").read_text().splitlines()) == 6
    build(tmp_path)
    assert len((gpu / "builds").read_text().splitlines()) == 6  # every engine was built once
    kept = tmp_path / "cache" / "tensorrt-10.16.1.timings"
    assert kept.read_text().splitlines() == ["times of one build"] * 6  # each build began with what was kept before


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_types_of_the_file_are_those_of_the_engine(gpu: Path, tmp_path: Path, precision: str) -> None:
    runtime, path = get_runtime(name_in_precision("tensorrt", precision)), tmp_path / "network.onnx"
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    with torch.inference_mode():
        expected = digest(network(torch.from_numpy(random_image([2, 3, 8, 8]))).double().numpy())
    runtime.write(network, (3, 8, 8), path, batch=2)
    with open_transport("local") as transport:
        runner = DeviceRunner(runtime, transport, str(RECORDED / "python"))
        assert measure(runner, [NetworkFile(path, (2, 3, 8, 8), expected)], BRIEF).measurements[0].ms > 0
        with pytest.raises(ProfileError, match=f"computes in {precision}, expected fp32"):
            measure(DeviceRunner(get_runtime("tensorrt"), transport, runner.python), [NetworkFile(path)], BRIEF)


def test_rounds_in_which_the_gpu_throttled_are_taken_again(gpu: Path, tmp_path: Path) -> None:
    (gpu / "reasons").write_text("\n".join([IDLE] * 8 + [HOT] * 2 + [IDLE]))
    journal = MeasurementJournal(tmp_path / "journal.jsonl")
    table = build(tmp_path, journal)
    throttled = [record for record in journal.of_kind("visit") if record["throttled"]]
    assert {reason for record in throttled for reason in record["throttled"]} == {"sw_thermal"}
    assert table.provenance.protocol["restarted_rounds"] == 1
    assert len({tuple(record["step"]) for record in journal.of_kind("visit")}) == 3 * 7


def test_a_gpu_that_always_throttles_is_refused_and_tried_anew(gpu: Path, tmp_path: Path) -> None:
    (gpu / "reasons").write_text(HOT)
    journal = MeasurementJournal(tmp_path / "journal.jsonl")
    with pytest.raises(BusyMachineError, match=r"throttled in 2 of 2 rounds \(sw_thermal\)") as caught:
        build(tmp_path, journal)
    assert "--lock-gpu-clocks" in caught.value.hint
    (gpu / "reasons").write_text(IDLE)
    assert build(tmp_path, journal).provenance.protocol["restarted_rounds"] == 2


@pytest.mark.slow
def test_the_command_builds_a_table_of_two_precisions(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--runtime", "tensorrt", "--python", str(RECORDED / "python"), "--precision", "fp32,fp16"]
    arguments += ["--spaces", "elastic-mini", "--networks", "6", "--batch", "2", "-q"]
    result = CliRunner().invoke(app, ["latency", "build", *arguments])
    assert result.exit_code == 0, result.output
    table = LatencyTable.load(user_table_path("local-tensorrt-batch-2"))
    assert (table.batch, table.precisions, table.runtime.name) == (2, ("fp32", "fp16"), "TensorRT")
    assert load_target("local-tensorrt-batch-2@fp16").precision == "fp16"
    space = get_space("elastic-mini")
    assert LatencyPredictor(table).graph(space.lower(space.largest), "elastic-mini").ms > 0


def test_without_a_driver_nothing_is_measured(gpu: Path, tmp_path: Path) -> None:
    (gpu / "state.json").unlink()
    with pytest.raises(RuntimeMissingError, match="runtime `tensorrt`: `nvidia-smi` finds no GPU") as caught:
        build(tmp_path)
    assert "install NVIDIA's driver" in caught.value.hint


def on_provider(path: Path, provider: str) -> Any:
    options = {"settings": {}, "binds": False, "whole": False}
    return load_on_provider(str(path), 1, [1, 8, 16, 16], provider=provider, **options)


def test_a_session_is_of_its_provider_or_refused(tmp_path: Path) -> None:
    save_network(tmp_path / "network.onnx")
    run, precision = on_provider(tmp_path / "network.onnx", "CPUExecutionProvider")
    assert (run(random_image([1, 8, 16, 16])).shape, precision) == ((1, 4), "fp32")
    with pytest.raises((RuntimeError, ValueError), match="CUDAExecutionProvider"):
        on_provider(tmp_path / "network.onnx", "CUDAExecutionProvider")


@pytest.mark.parametrize(
    ("runtime", "provider", "name"),
    [
        ("onnxruntime", "CUDA", "onnxruntime:cuda"),
        ("onnxruntime", "cpu", "onnxruntime"),
        ("openvino", "NPU", "openvino:npu"),
        ("torch", "cuda-compiled", "torch:cuda-compiled"),
        ("onnxruntime-web", "wasm", "onnxruntime-web"),
    ],
)
def test_a_provider_is_a_runtime_of_its_own(runtime: str, provider: str, name: str) -> None:
    assert name_with_provider(runtime, provider) == name
    assert get_runtime(name).name == name


def test_an_unknown_provider_is_told_with_those_there_are() -> None:
    with pytest.raises(UnknownNameError, match="unknown provider of runtime openvino: `tpu`"):
        name_with_provider("openvino", "tpu")
