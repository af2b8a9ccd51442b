"""Building a measured table: the joint fit on made-up observations, and the whole way on tiny networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latency_tables import LatencyPredictor, LatencyTable, fuse
from latency_tables.build import FOLDS, Conditions, SampledNetwork, build_table, table_from_observations
from latency_tables.device_runner import DeviceRunner
from latency_tables.errors import BusyMachineError, CalibrationError
from latency_tables.kernels import ONNX_RUNTIME, Kernel
from latency_tables.local_fit import Observation, fit_local
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.profile import KernelSample
from latency_tables.repeats import Protocol
from latency_tables.runtimes import get_runtime
from latency_tables.transports import open_transport
from search_spaces import OpGraph, get_space
from tests.support.onnx_networks import network_ops, save_network
from tests.support.tables import document

PROFILER_MS = 0.004


def true_ms(kernel: Kernel) -> float:
    launches, macs, read, written = kernel.features(4)
    rate = {"pointwise_conv": 2e-8, "depthwise_conv": 6e-8}.get(kernel.op, 1e-8)
    return 0.001 * launches + rate * macs + 2e-8 * (read + written)


def made_up(count: int, noise: float = 0.0, seed: int = 0) -> list[Observation]:
    generator = np.random.default_rng(seed)
    space = get_space("elastic-mini")
    observations = []
    for number, architecture in enumerate(space.decode(space.sample(count, generator))):
        graph = space.lower(architecture)
        kernels = tuple(kernel for _, ops in graph.blocks for kernel in fuse(ops, ONNX_RUNTIME))
        ms = 0.02 + sum(true_ms(kernel) for kernel in kernels)
        samples = tuple(KernelSample(kernel, true_ms(kernel) + 2 * PROFILER_MS, 2, 10) for kernel in kernels)
        measured = ms * (1 + noise * generator.standard_normal())
        observations.append(Observation(f"n{number}", graph.macs, kernels, measured, samples))
    return observations


def header() -> dict[str, object]:
    fitted = ("overhead_ms", "scale", "interval", "validation", "rooflines", "kernels")
    data = {field: value for field, value in document().items() if field not in fitted}
    return {**data, "runtime": {"name": "ONNX Runtime", "fusion": "onnxruntime"}}


def test_the_joint_fit_predicts_networks_it_has_not_seen() -> None:
    fit = fit_local(made_up(16))
    for unseen in made_up(8, seed=1):
        assert fit.milliseconds(unseen.kernels) == pytest.approx(unseen.measured_ms, rel=0.03)
    assert fit.profiler_ms == pytest.approx(PROFILER_MS, rel=0.3)


def test_the_table_states_its_held_out_error_and_agrees_with_the_predictor() -> None:
    observations = made_up(18, noise=0.02)
    table = table_from_observations(observations, header())
    assert len(table.validation.rows) == 18
    assert 0.005 < table.validation.rmspe < 0.06
    assert table.validation.rmspe < table.validation.mac_line_rmspe
    assert table.interval.low < 0 < table.interval.high
    fit, predictor = fit_local(observations), LatencyPredictor(table)
    space = get_space("elastic-mini")
    for architecture in space.decode(space.sample(5, np.random.default_rng(3))):
        graph = space.lower(architecture)
        kernels = [kernel for _, ops in graph.blocks for kernel in fuse(ops, ONNX_RUNTIME)]
        assert predictor.graph(graph).ms == pytest.approx(fit.milliseconds(kernels), rel=1e-9)


def test_what_was_sampled_is_not_extrapolated_and_another_space_is() -> None:
    table = table_from_observations(made_up(18), header())
    predictor, mini, large = LatencyPredictor(table), get_space("elastic-mini"), get_space("elastic")
    seen = mini.lower(mini.decode(mini.sample(18, np.random.default_rng(0)))[0])
    assert not predictor.graph(seen).extrapolated
    assert predictor.graph(large.lower(large.largest)).extrapolated


def test_too_few_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="2 measured networks, expected at least 4"):
        fit_local(made_up(2))
    with open_transport("local") as transport, pytest.raises(CalibrationError, match=f"0 networks.* least {FOLDS}"):
        build_table([], DeviceRunner(get_runtime("onnxruntime"), transport), tmp_path)


def _other_programs_are_running(journal: MeasurementJournal) -> None:
    for record in journal.of_kind("visit"):
        record["others_busy"] = 1.0
        record["cpu_ms"] = [ms / 2 for ms in record["wall_ms"]]


def test_the_whole_way_on_this_machine(tmp_path: Path) -> None:
    networks = []
    for width, depth in [(16, 1), (16, 3), (32, 1), (32, 3), (64, 1), (64, 2)]:
        path = tmp_path / f"{width}-{depth}.onnx"
        save_network(path, width, depth)
        graph = OpGraph([("network", network_ops(width, depth))], (8, 16, 16))
        networks.append(SampledNetwork(path.stem, graph, path))
    protocol = Protocol(rounds=3, warm_up_runs=3, warm_up_seconds=0.0, runs=10, seconds=0.01, restarts=0)
    journal = MeasurementJournal(tmp_path / "journal.jsonl")
    with open_transport("local") as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        table = build_table(
            networks, runner, tmp_path, conditions=Conditions(allow_busy=True), protocol=protocol, journal=journal
        )
        _other_programs_are_running(journal)
        with pytest.raises(BusyMachineError, match="all processors busy during 100% of the measurements") as caught:
            build_table(networks, runner, tmp_path, protocol=protocol, journal=journal)
    assert "--allow-busy" in caught.value.hint
    assert journal.records == MeasurementJournal(tmp_path / "journal.jsonl").records == []  # to be measured again
    table.save(tmp_path / "local.json")
    assert LatencyTable.load(tmp_path / "local.json") == table
    assert (table.name, table.provenance.kind, table.precision) == ("local", "measured", "fp32")
    assert {row.network for row in table.validation.rows} == {network.name for network in networks}
    predictor = LatencyPredictor(table)
    for network, row in zip(networks, table.validation.rows, strict=True):
        latency = predictor.graph(network.graph)
        assert not latency.extrapolated
        assert 0.3 < latency.ms / row.measured_ms < 3  # this machine may be busy: the bar proper is in the table
