"""`nas latency predict` and `nas latency check`, with measurements that are made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import nas.latency.check
from latency_tables import LatencyPredictor, LatencyTable, load_target
from latency_tables.device_runner import DeviceRunner, NetworkFile
from latency_tables.errors import TableError
from latency_tables.runtimes.onnx_runtime import OnnxRuntime
from nas.cli.main import app
from nas.errors import UsageError
from nas.latency.check import check_target, require_measurable
from nas.latency.predict import predict_network
from nas.latency.samples import latency_samples
from nas.networks.resolve import resolve_network
from search_spaces import get_space, population_cost
from tests.support.tables import ROOFLINE, document


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LatencyTable:
    """A table of this machine that knows convolutions alone and was fitted to three networks of `elastic-mini`."""
    import platform
    from importlib.metadata import version

    from latency_tables.worker import processor_name

    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    wide = {**ROOFLINE, "lowest": [0, 0, 0, 0], "highest": [1, 1e9, 1e8, 1e8]}
    base = document()
    fitted = latency_samples("elastic-mini", 3, 0)
    rows = [
        {"network": s.name, "macs": s.graph.macs, "measured_ms": 1.0, "predicted_ms": 1.0, "mac_line_ms": 1.0}
        for s in fitted
    ]
    changes: dict[str, Any] = {
        "name": "local",
        "aliases": [],
        "device": {"name": "here", "processor": processor_name()},
        "runtime": {"name": "ONNX Runtime", "version": version("onnxruntime"), "fusion": "onnxruntime"},
        "precision": "fp32",
        "provenance": {**base["provenance"], "kind": "measured", "host": platform.node(), "protocol": {}},
        "validation": {**base["validation"], "rows": rows},
        "rooflines": [{**ROOFLINE, "op": "other"}, {**wide, "op": "pointwise_conv"}],
        "kernels": [],
        "figures": [],
    }
    table = LatencyTable.from_dict({**base, **changes}, "here")
    table.save(tmp_path / "latency" / "local.json")
    return table


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Measuring gives these numbers instead, in turn; nothing is exported."""
    times: list[float] = []

    def fake(runner: DeviceRunner, files: Sequence[NetworkFile], *args: object, **options: object) -> SimpleNamespace:
        values = (times * len(files))[: len(files)]
        return SimpleNamespace(measurements=[SimpleNamespace(ms=ms, steady=True, statistic="median") for ms in values])

    monkeypatch.setattr(nas.latency.check, "measure", fake)
    monkeypatch.setattr("nas.latency.write_networks.export_samples", lambda *args: None)
    monkeypatch.setattr("nas.latency.write_networks.expected_outputs", lambda path: None)
    monkeypatch.setattr(OnnxRuntime, "write", lambda *args: {})
    return times


def test_the_breakdown_adds_up_to_the_prediction(local: LatencyTable) -> None:
    predictor = LatencyPredictor(local)
    prediction = predict_network(predictor, resolve_network("elastic-mini/largest"))
    total = sum(entry.ms for entry in prediction.classes) + local.overhead_ms
    assert prediction.latency.ms == pytest.approx(total)
    assert sum(entry.share for entry in prediction.classes) == pytest.approx(1)
    assert sum(entry.macs for entry in prediction.classes) == prediction.macs
    known = next(entry for entry in prediction.classes if entry.op == "pointwise_conv")
    assert known.extrapolated_ms == 0
    assert prediction.extrapolated_share == pytest.approx(1 - known.share)
    assert "pointwise_conv" not in prediction.describe_extrapolation()


def test_what_rounds_to_nothing_is_not_told(local: LatencyTable) -> None:
    prediction = predict_network(LatencyPredictor(local), resolve_network("elastic-mini/largest"))
    small = replace(prediction.extrapolated_classes[-1], extrapolated_ms=1e-3 * prediction.latency.ms)
    others = [replace(entry, extrapolated_ms=0.0) for entry in prediction.classes if entry.op != small.op]
    assert replace(prediction, classes=(*others, small)).describe_extrapolation() == ""


def test_networks_of_the_fit_are_left_out(local: LatencyTable, measured: list[float]) -> None:
    measured += [1.0] * 4 + [1.1, 0.9, 1.3, 1.2]
    result = check_target(
        "local", ["elastic-mini/smallest", "elastic-mini/middle"], ["elastic-mini"], networks=4, seed=5
    )
    assert [network.group for network in result.networks] == ["elastic-mini"] * 4 + ["named"]
    assert result.networks[-1].name == "elastic-mini/middle"
    assert set(result.skipped) == {
        "elastic-mini/smallest",
        "elastic-mini/0 (seed 5)",
        "elastic-mini/1 (seed 5)",
    }
    assert [network.name for network in result.again] == ["elastic-mini/0", "elastic-mini/2", "elastic-mini/1"]
    assert [network.change for network in result.again] == pytest.approx([0.1, -0.1, 0.3])
    assert result.machine_change == pytest.approx(0.1)
    assert result.networks[-1].measured_ms == 1.2
    assert set(result.summaries()) == {"elastic-mini", "named", "all"}
    with pytest.raises(UsageError, match="nothing is left to check"):
        check_target("local", ["elastic-mini/smallest"])


def test_statistics_are_those_of_the_errors(local: LatencyTable, measured: list[float]) -> None:
    predictor = LatencyPredictor(local)
    true = [predict_network(predictor, resolve_network("elastic-mini/middle")).latency.ms]
    measured += [true[0] / 1.04]
    result = check_target("local", ["elastic-mini/middle"])
    summary = result.summaries()["named"]
    assert summary.rmspe == pytest.approx(0.04)
    assert (summary.within_5_percent, summary.worst) == (1.0, pytest.approx(0.04))
    assert result.networks[0].mac_line_ms == pytest.approx(1.0)
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_lies_outside_its_interval_is_named_with_the_reason(
    local: LatencyTable, measured: list[float], tmp_path: Path
) -> None:
    measured.append(1e4)
    arguments = ["latency", "check", "elastic-mini/middle", "-q", "-o", str(tmp_path / "check.json")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (network,) = json.loads((tmp_path / "check.json").read_text())["networks"]
    assert not network["inside_interval"]
    assert network["reason"].startswith("no evidence for ")
    assert "elastic-mini/middle" in result.stdout
    assert "1 of 1 networks lie outside" in result.stderr


def test_what_the_machine_takes_otherwise_now_is_said_beside_the_errors(
    local: LatencyTable, measured: list[float]
) -> None:
    measured += [1.1, 1.2, 1.3, 1.0]
    arguments = ["latency", "check", "elastic-mini/middle", "-q"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "3 networks that the table was made from take +20.0% now (median; +10.0% to +30.0%)" in result.stderr


def test_other_tables_are_refused_with_the_remedy(local: LatencyTable) -> None:
    other = local.model_copy(update={"runtime": local.runtime.model_copy(update={"name": "Abacus"})})
    with pytest.raises(UsageError, match="is of Abacus in fp32") as caught:
        require_measurable(other)
    assert "nas latency build" in caught.value.hint
    with pytest.raises(UsageError, match="is calibrated"):
        require_measurable(load_target("pixel6"))
    stale = local.model_copy(update={"provenance": local.provenance.model_copy(update={"host": "elsewhere"})})
    with pytest.raises(TableError, match="out of date: measured on `elsewhere`"):
        require_measurable(stale)


def test_predict_prints_one_document(local: LatencyTable) -> None:
    result = CliRunner().invoke(app, ["latency", "predict", "elastic-mini/largest", "--target", "local", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    (network,) = document["networks"]
    assert document["target"] == "local"
    assert network["low_ms"] <= network["ms"] <= network["high_ms"]
    assert 0 < network["extrapolated_share"] < 1
    shown = CliRunner().invoke(app, ["latency", "predict", "elastic-mini/largest", "--kernels"])
    assert "pointwise_conv" in shown.stdout
    assert shown.stderr.startswith("local: ")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["predict", "elastic/Q"], 2), (["predict", "a.onnx"], 4), (["check", "--target", "pixel6"], 2)],
)
def test_bad_input_is_a_message_and_an_exit_code(local: LatencyTable, arguments: list[str], code: int) -> None:
    result = CliRunner().invoke(app, ["latency", *arguments])
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")


def test_two_hundred_networks_together_equal_one_at_a_time() -> None:
    space, predictor = get_space("elastic"), LatencyPredictor(load_target("pixel6"))
    genotypes = space.sample(200, np.random.default_rng(7))
    graphs = [space.lower(architecture) for architecture in space.decode(genotypes)]
    cost = population_cost(space, genotypes)
    np.testing.assert_allclose(
        predictor.population(space, genotypes).ms, [predictor.graph(graph).ms for graph in graphs], rtol=1e-9
    )
    assert cost.macs.tolist() == [graph.macs for graph in graphs]
    assert cost.params.tolist() == [graph.params for graph in graphs]
