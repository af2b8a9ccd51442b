"""Networks in a browser: what the page is served and asked, what its times become, and what is refused.

The browser is a recorded one. With a real one and its npm package `tests/latency_tables/runtimes` runs the contract.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.errors import ProfileError
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import Protocol
from latency_tables.runtimes import RuntimeMissingError, get_runtime
from latency_tables.runtimes.browser import browser_block
from latency_tables.transports.local import LocalTransport
from tests.support import recorded_browser
from tests.support.sessions import network_files

ONCE = Protocol(rounds=1, rounds_limit=1, warm_up_runs=1, warm_up_seconds=0.0, runs=3, seconds=0.0, restarts=0)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NAS_BROWSER", raising=False)
    return tmp_path / "cache"


def use_browser(cache: Path, monkeypatch: pytest.MonkeyPatch, **told: Any) -> None:
    monkeypatch.setenv("NAS_BROWSER", str(recorded_browser.install(cache, **told)))


def run(name: str, files: list[NetworkFile]) -> tuple[dict[str, Any], MeasurementJournal]:
    runtime, journal = get_runtime(name), MeasurementJournal()
    with LocalTransport() as transport:
        runner = DeviceRunner(runtime, transport, runtime.python())
        facts = runner.facts()
        measure(runner, files, ONCE, journal=journal)
    return facts, journal


def test_the_page_computes_and_its_clock_counts(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_browser(cache, monkeypatch)
    files = network_files(tmp_path, 2)
    facts, journal = run("onnxruntime-web", files)
    assert (facts["runtime_version"], facts["browser"]) == ("1.30.0", "Recorded 1.0")
    assert [record["precision"] for record in journal.of_kind("loaded")] == ["fp32"] * 2
    for record in journal.of_kind("visit"):
        size = files[int(record["network"])].path.stat().st_size
        assert record["wall_ms"] == [pytest.approx(size * 1e-6)] * 3


def test_a_browser_that_dies_is_told(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (file,) = network_files(tmp_path, 1)
    use_browser(cache, monkeypatch, dies_at="load")
    with pytest.raises(ProfileError, match="the browser ended with exit code 3"):
        run("onnxruntime-web", [file])


class Waiting:
    """A block of two runs of 10 ms, during which the page computed for some milliseconds."""

    overhead_ms = 1.0

    def __init__(self, computed_ms: float, is_in_page: bool = True) -> None:
        self.is_in_page = is_in_page
        self.block = lambda **amounts: ({"wall_ms": [8.0, 12.0], "elapsed_ms": 20.0}, computed_ms)


@pytest.mark.parametrize(
    ("computed_ms", "cpu_ms"), [(21.0, [8.0, 12.0]), (0.0, [8.0, 12.0]), (15.0, [7.0, 7.0]), (40.0, [8.0, 12.0])]
)
def test_what_a_page_waited_for_others_is_not_its_own_time(computed_ms: float, cpu_ms: list[float]) -> None:
    assert browser_block(Waiting(computed_ms), None, 2, 0.0, 1.0) == ([8.0, 12.0], cpu_ms)
    assert browser_block(Waiting(computed_ms, is_in_page=False), None, 2, 0.0, 1.0) == ([8.0, 12.0], [8.0, 12.0])


def test_what_is_missing_is_told_with_the_line_that_installs_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = get_runtime("onnxruntime-web")
    with pytest.raises(RuntimeMissingError, match="the npm package `onnxruntime-web` is not in") as caught:
        runtime.python()
    assert caught.value.hint == f"npm install --prefix {cache / 'environments' / 'onnxruntime-web'} onnxruntime-web"
    recorded_browser.install(cache)
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(RuntimeMissingError, match="found none of `chromium`") as caught:
        runtime.python()
    assert caught.value.hint.startswith("apt install chromium")


@pytest.mark.parametrize(
    ("facts", "found"),
    [({}, "no adapter"), ({"adapter": "google swiftshader", "is_software": True}, "`google swiftshader`, which")],
)
def test_webgpu_without_a_gpu_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], found: str
) -> None:
    use_browser(cache, monkeypatch, facts=facts)
    with pytest.raises(RuntimeMissingError, match=f"WebGPU: found {found}") as caught:
        run("onnxruntime-web:webgpu", [])
    assert "leave `--provider` out" in caught.value.hint
