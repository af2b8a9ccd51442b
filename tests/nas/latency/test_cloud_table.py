"""From a recorded AI Hub to a table: jobs, what a kill leaves of them, and what is refused; no token is ever told."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from latency_tables import load_target
from latency_tables.build import SampledNetwork
from latency_tables.errors import ProfileError, TransportError
from nas.cli.main import app
from nas.events import ignore
from nas.latency.cloud import build_cloud_table
from nas.latency.request import BuildRequest
from search_spaces import OpGraph
from tests.support.onnx_networks import network_ops, save_network

RECORDED = Path(__file__).parents[2] / "support" / "recorded_hub"
REQUEST = BuildRequest(("vit",), "aihub:Samsung Galaxy S24", "onnx:npu").completed()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    monkeypatch.setenv("RECORDED_HUB", str(folder))
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(RECORDED))
    monkeypatch.delitem(sys.modules, "qai_hub", raising=False)
    return folder


def change(hub: Path, **state: Any) -> None:
    (hub / "state.json").write_text(json.dumps(state))


def jobs(hub: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (hub / "jobs").read_text().splitlines()]


def networks(folder: Path) -> list[SampledNetwork]:
    found = []
    for width, depth in [(16, 1), (16, 2), (32, 1), (32, 2), (64, 1), (64, 2)]:
        path = folder / f"{width}-{depth}.onnx"
        save_network(path, width, depth)
        found.append(SampledNetwork(path.stem, OpGraph([("network", network_ops(width, depth))], (8, 16, 16)), path))
    return found


def test_a_device_of_the_cloud_becomes_a_target(hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled = networks(tmp_path)
    table = build_cloud_table(REQUEST, sampled, tmp_path, ignore)
    for network, row in zip(sampled, table.validation.rows, strict=True):
        assert row.measured_ms == pytest.approx(network.path.stat().st_size * 1e-6)
    assert table.name == "samsung-galaxy-s24-npu"
    assert (table.device.name, table.device.system) == ("Samsung Galaxy S24", "14")
    assert "layers of all networks: 12 on CPU, 12 on NPU" in table.provenance.notes
    assert table.provenance.protocol["accelerated_share"] == 0.5
    assert table.provenance.anchor_drift == 0
    given = jobs(hub)
    assert Counter(job["kind"] for job in given) == {"compile": 6, "profile": 7}
    assert {job["options"] for job in given} == {"--target_runtime onnx", "--compute_unit npu"}
    table.save(tmp_path / "cache" / "latency" / "samsung.json")
    assert load_target("samsung-galaxy-s24-npu") == table
    assert capsys.readouterr().out == ""


def test_jobs_that_were_given_are_waited_for_not_given_again(hub: Path, tmp_path: Path) -> None:
    sampled = networks(tmp_path)
    change(hub, dies_after=9)
    with pytest.raises(TransportError, match="AI Hub: Could not connect") as caught:
        build_cloud_table(REQUEST, sampled, tmp_path, ignore)
    assert "SECRET" not in f"{caught.value}{caught.value.hint}"
    assert caught.value.__suppress_context__
    change(hub)
    build_cloud_table(REQUEST, sampled, tmp_path, ignore)
    assert len(jobs(hub)) == 13


@pytest.mark.parametrize("step", ["compile", "profile"])
def test_a_network_that_the_service_cannot_run_is_named(hub: Path, tmp_path: Path, step: str) -> None:
    change(hub, fails=step)
    with pytest.raises(ProfileError, match=rf"16-1.onnx`: AI Hub could not {step} it: {step} is not supported"):
        build_cloud_table(REQUEST, networks(tmp_path), tmp_path, ignore)


@pytest.mark.parametrize(
    ("arguments", "state", "code", "message"),
    [
        (["aihub:Galaxy S24"], {}, 2, "unknown device of AI Hub: `Galaxy S24`"),
        (["aihub:"], {}, 2, "expected a device's name behind the colon"),
        (["aihub:Samsung Galaxy S24", "--runtime", "coreml"], {}, 2, "unknown runtime of AI Hub: `coreml`"),
        (["aihub:Samsung Galaxy S24", "--device", "dsp"], {}, 2, "unknown unit of AI Hub: `dsp`"),
        (["aihub:Samsung Galaxy S24", "--precision", "int8"], {}, 2, "sent to AI Hub in fp32 only"),
        (["aihub:Samsung Galaxy S24"], {"has_no_token": True}, 5, "qai-hub configure --api_token TOKEN"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_written(
    hub: Path, tmp_path: Path, arguments: list[str], state: dict[str, Any], code: int, message: str
) -> None:
    change(hub, **state)
    result = CliRunner().invoke(app, ["latency", "build", "--target", *arguments])
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.rglob("*.onnx"))


def test_without_the_client_library_the_line_that_installs_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    result = CliRunner().invoke(app, ["latency", "build", "--target", "aihub:Samsung Galaxy S24"])
    assert result.exit_code == 5
    assert "pip install 'nas-vit[aihub]'" in " ".join(result.output.split())
