"""`nas latency build`: what it refuses, what it calls tables, and a build that is killed and goes on (slow)."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latency_tables import LatencyTable
from latency_tables.errors import ProfileError
from nas.cli.latency_build import BuildProgress, share_done
from nas.cli.main import app
from nas.events import StageProgress, ignore
from nas.latency.request import BuildRequest
from nas.latency.write_networks import ExportJob, expected_outputs, export_samples, spare_cores


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("NAS_CACHE_DIR", str(folder))
    for name in ("LITERT", "EXECUTORCH", "OPENVINO"):
        monkeypatch.delenv(f"NAS_{name}_PYTHON", raising=False)
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["--spaces", "elastik"], 2, "unknown group of networks: `elastik`", ""),
        (["--spaces", "vit,vit"], 2, "found one twice", ""),
        (["--spaces", ""], 2, "0 networks, expected at least 6", "24 of each"),
        (["--spaces", "vit", "--networks", "3"], 2, "3 networks, expected at least 6", "24 of each"),
        (["--runtime", "tflite"], 2, "unknown runtime: `tflite`", ""),
        (["--provider", "gpus"], 2, "unknown provider of runtime onnxruntime: `gpus`", ""),
        (["--batch", "1,none"], 2, "expected different whole numbers above 0", ""),
        (["--batch", "2,2"], 2, "expected different whole numbers above 0", ""),
        (["--target", "adb:1", "--batch", "8"], 2, "measured with one image at a time", ""),
        (["--runtime", "tensorrt"], 5, "runtime `tensorrt`: `tensorrt` is not installed", "pip install"),
        (["--provider", "coreml"], 5, "expected CoreMLExecutionProvider", "build the table on a Mac"),
        (["--runtime", "torch", "--device", "cuda"], 5, "`nvidia-smi` finds no GPU", "install NVIDIA's driver"),
        (["--runtime", "litert", "--compile"], 2, "unknown provider of runtime litert: `compiled`", ""),
        (["--target", "browser"], 5, "the npm package `onnxruntime-web` is not in", "npm install --prefix"),
        (["--target", "browser", "--runtime", "torch"], 2, "`onnxruntime-web` runs in browsers", "--target browser"),
        (["--runtime", "litert"], 5, "`ai_edge_litert` is not installed", "python -m venv"),
        (["--runtime", "litert", "--python", "/no/python"], 5, "found no program `/no/python`", ""),
        (["--target", "usb:1"], 2, "target `usb:1`", "adb devices"),
        (["--precision", "int7"], 2, "unknown precision of runtime onnxruntime: `int7`", "int8"),
        (["--target", "adb:1", "--runtime", "executorch"], 2, "phones are measured with `litert`", ""),
        (["--name", "local", "--threads", "2"], 2, "on one thread", "--name"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    arguments: list[str], code: int, message: str, hint: str, cache: Path
) -> None:
    result = CliRunner().invoke(app, ["latency", "build", *arguments])
    text = " ".join(result.output.split())
    assert result.exit_code == code, text
    assert message in text
    assert hint in text
    assert not list(cache.rglob("*.json*"))


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (BuildRequest(("vit",)), "local"),
        (BuildRequest(("vit",), threads=4), "local-4-threads"),
        (BuildRequest(("vit",), runtime="litert"), "local-litert"),
        (BuildRequest(("vit",), runtime="onnxruntime:cuda", batch=8), "local-cuda-batch-8"),
        (BuildRequest(("vit",), device="browser", threads=2), "browser-2-threads"),
        (BuildRequest(("vit",), device="browser", runtime="onnxruntime-web:webgpu"), "browser-webgpu"),
        (BuildRequest(("vit",), device="ssh:pi@raspberrypi:2222"), "raspberrypi"),
        (BuildRequest(("vit",), device="adb:19051FDF"), "19051FDF-litert"),
        (BuildRequest(("vit",), device="adb:19051FDF", name="my-phone"), "my-phone"),
    ],
)
def test_tables_are_named_after_device_runtime_and_threads(request_: BuildRequest, name: str) -> None:
    assert request_.completed().name == name


def test_the_bar_covers_the_whole_build_and_never_goes_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert share_done(StageProgress("write networks", 0, 10)) == 0
    assert share_done(StageProgress("profile networks", 10, 10)) == 1
    with BuildProgress() as progress:
        progress(StageProgress("measure networks", 10, 10))
        progress(StageProgress("profile networks", 0, 10))
        progress(StageProgress("measure networks", 10, 20))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["85%", "85%", "85%"]


def test_a_second_build_of_the_same_device_is_refused(cache: Path) -> None:
    cache.mkdir()
    with (cache / "build-local.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = CliRunner().invoke(app, ["latency", "build", "--spaces", "elastic-mini"])
    assert result.exit_code == 2
    assert "another process is measuring `local`" in result.output


def test_networks_are_written_once_by_processes_of_their_own(tmp_path: Path) -> None:
    jobs = [ExportJob("elastic-mini", 6, 0, number, str(tmp_path / f"{number}.onnx")) for number in (0, 1)]
    told: list[StageProgress] = []
    export_samples("onnxruntime", jobs, {}, lambda event: told.append(event))  # type: ignore[arg-type]
    assert [(event.done, event.total) for event in told] == [(0, 2), (1, 2), (2, 2)]
    assert json.loads(expected_outputs(tmp_path / "1.onnx").read_text())["count"] > 1
    written = [Path(job.path).stat().st_mtime_ns for job in jobs]
    export_samples("onnxruntime", jobs, {}, ignore)
    assert [Path(job.path).stat().st_mtime_ns for job in jobs] == written


def test_a_network_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    job = ExportJob("elastic-mini", 6, 0, 99, str(tmp_path / "99.onnx"))
    with pytest.raises(ProfileError, match="network `elastic-mini/99`: list index out of range"):
        export_samples("onnxruntime", [job], {}, ignore)


@pytest.mark.parametrize(
    ("allowed", "threads", "expected"),
    [([0], 1, []), ([0, 1], 1, []), (range(4), 1, []), (range(5), 1, [3, 4]), (range(8), 4, [6, 7]), (range(8), 5, [])],
)
def test_networks_are_written_beside_measuring_where_enough_cores_stay_idle(
    monkeypatch: pytest.MonkeyPatch, allowed: Collection[int], threads: int, expected: list[int]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(allowed))
    assert spare_cores(threads) == expected


def repeats(journal: Path) -> list[tuple[int, int]]:
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return [tuple(record["step"]) for record in map(json.loads, lines) if record["kind"] == "visit"]


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_was(cache: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from nas.cli.main import main; main()",
        "latency",
        "build",
        "--spaces",
        "elastic-mini",
        "--networks",
        "6",
    ]
    command += ["--allow-busy", "--quiet"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 300
    journals: list[Path] = []
    while not journals or len(repeats(journals[0])) < 10:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
        journals = list(cache.glob("builds/*/journal.jsonl"))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = repeats(journals[0])
    files = {path: path.stat().st_mtime_ns for path in cache.glob("builds/*/networks/*")}
    copy = cache / "journal.jsonl"
    process = subprocess.Popen(command)
    while process.poll() is None:
        if journals[0].exists():
            copy.write_bytes(journals[0].read_bytes())
            assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in files.items() if path.exists())
        time.sleep(0.05)
    assert process.returncode == 0
    found = repeats(copy)
    assert found[: len(kept)] == kept
    assert max(Counter(found).values()) == 1
    assert len(LatencyTable.load(cache / "latency" / "local.json").validation.rows) == 6
    assert not list(cache.glob("builds/*"))
