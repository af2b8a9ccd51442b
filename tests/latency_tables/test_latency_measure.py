"""Measuring: statistics on recorded samples, and ONNX Runtime on a tiny network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from latency_tables import device_runner
from latency_tables.device_runner import PROFILE_RUNS, PROFILE_TURNS, PROFILE_WARM_UP, DeviceRunner, NetworkFile
from latency_tables.errors import BusyMachineError, ProfileError
from latency_tables.kernels import ONNX_RUNTIME, ONNX_RUNTIME_INT8, fuse
from latency_tables.measure import measure_network, measure_networks
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.profile import Node, kernel_signature, match, node_signature, read_nodes, read_profile
from latency_tables.repeats import Protocol, Repeat, is_clean, summarise, summarise_all
from latency_tables.runtimes import get_runtime
from latency_tables.transports.local import LocalTransport
from search_spaces import SOURCE, OpList
from tests.support.onnx_networks import network_ops, save_network

TINY = Protocol(rounds=2, warm_up_runs=2, warm_up_seconds=0.0, runs=5, seconds=0.0)


def repeat(wall_ms: Sequence[float], cpu_ms: Sequence[float] | None = None) -> Repeat:
    return Repeat(tuple(wall_ms), tuple(cpu_ms if cpu_ms is not None else wall_ms))


def test_a_run_is_clean_when_both_clocks_agree() -> None:
    assert is_clean(1.02, 1.0)
    assert is_clean(0.0149, 0.01)
    assert not is_clean(1.03, 1.0)
    assert not is_clean(2.0, 1.0)


def test_a_quiet_machine_gives_the_median_of_round_medians() -> None:
    result = summarise("a", [repeat([1.0, 1.01, 1.02]), repeat([1.03, 1.02, 1.01]), repeat([0.99, 1.0, 1.5])])
    assert (result.ms, result.statistic, result.clock) == (1.01, "median", "wall")
    assert (result.rounds, result.runs, result.clean_share, result.min_ms) == (3, 9, 1.0, 0.99)
    assert result.round_spread == pytest.approx(0.02 / 1.01)
    assert result.steady


def test_runs_that_lost_the_core_are_left_out() -> None:
    result = summarise("a", [repeat([1.0, 9.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])])
    assert (result.ms, result.clock, result.clean_share, result.p95_ms) == (1.0, "wall", 0.75, 1.0)


def test_a_contended_core_falls_back_to_cpu_time() -> None:
    result = summarise("a", [repeat([2.0, 2.1, 2.2, 1.0], [1.0, 1.01, 1.02, 1.0])])
    assert result.clock == "thread_cpu"
    assert result.clean_share == 0.25
    assert result.ms == pytest.approx(1.005)


def test_several_threads_on_a_busy_machine_are_refused() -> None:
    with pytest.raises(BusyMachineError, match="25% of runs were undisturbed, expected at least half with 4") as caught:
        summarise("a", [repeat([2.0, 2.1, 2.2, 1.0], [1.0, 1.01, 1.02, 1.0])], threads=4)
    assert "stop other programs" in caught.value.hint


def test_unsteady_sessions_are_given_by_their_fastest_runs() -> None:
    slow_then_fast = [repeat([1.0, 1.1, 1.8, 1.9]), repeat([1.0, 1.05, 1.1, 1.9]), repeat([1.7, 1.8, 1.9, 2.0])]
    steady = [repeat([1.0, 1.0, 1.0]), repeat([1.01, 1.01, 1.01])]
    mixed = summarise_all(["a", "b", "c"], [slow_then_fast, slow_then_fast, steady])
    assert {result.statistic for result in mixed} == {"p5"}
    assert mixed[0].ms == mixed[0].p5_ms == 1.0
    assert not mixed[0].steady
    quiet = summarise_all(["a", "b"], [slow_then_fast, steady])
    assert {result.statistic for result in quiet} == {"median"}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A small network as an ONNX file."""
    path = tmp_path / "tiny.onnx"
    save_network(path)
    return path


def test_measuring_a_real_network(network: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    session = measure_networks([network, network], TINY, lambda *step: steps.append(step))
    assert len(session.measurements) == 2
    for result in session.measurements:
        assert 0 < result.min_ms <= result.ms <= result.p95_ms
        assert result.rounds >= TINY.rounds  # more where this machine is unsteady
    name, done, total = steps[-1]
    assert name == "measure"
    assert done == total >= 4
    assert measure_network(network, TINY).name == "tiny"


def test_profiled_kernels_add_up_to_all_nodes(network: Path, tmp_path: Path) -> None:
    with LocalTransport() as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        (files,) = device_runner.profile(runner, [NetworkFile(network)], tmp_path / "profiles", MeasurementJournal())
    nodes = read_profile(*files, PROFILE_WARM_UP)
    kernels = fuse(network_ops(), ONNX_RUNTIME)
    profile = match(kernels, nodes)
    assert profile.unmatched == ()
    assert sorted(sample.kernel.key for sample in profile.samples) == sorted(kernel.key for kernel in kernels)
    assert sum(sample.ms for sample in profile.samples) == pytest.approx(profile.node_ms)
    assert sum(sample.nodes for sample in profile.samples) == len(nodes)
    assert all(sample.runs == PROFILE_TURNS * PROFILE_RUNS for sample in profile.samples)


def test_a_broken_network_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no network")
    with pytest.raises(ProfileError, match=r"broken\.onnx.*cannot load it"):
        measure_network(path, TINY)


def node(name: str, operator: str, inputs: str, shape: tuple[int, ...], us: float) -> Node:
    return Node(name, operator, (inputs,), (name,), ((1, *shape),), (1, *shape), 1, 1, 1, (us, us + 1))


def test_nodes_without_counterpart_go_to_their_neighbours() -> None:
    ops = OpList((8, 4, 4))
    last = ops.norm("norm", SOURCE, "group_norm", affine_channels=8)
    ops.conv("conv", last, 8)
    kernels = fuse(ops.ops, ONNX_RUNTIME)
    shape = (8, 4, 4)
    nodes = [
        node("normalise", "InstanceNormalization", "x", shape, 5.0),
        node("gain", "Mul", "normalise", shape, 2.0),
        node("reorder", "ReorderInput", "gain", shape, 3.0),
        node("conv", "Conv", "reorder", shape, 7.0),
        node("back", "ReorderOutput", "conv", shape, 4.0),
    ]
    times = {sample.kernel.op: sample.ms for sample in match(kernels, nodes).samples}
    assert times == pytest.approx({"group_norm": 0.007, "pointwise_conv": 0.014})


def test_a_product_with_a_weight_is_a_linear_layer() -> None:
    ops = OpList((16, 8))
    ops.linear("project", SOURCE, 4)
    (kernel,) = fuse(ops.ops, ONNX_RUNTIME)
    weighted = Node("n", "MatMul", ("x", "w"), ("n",), ((1, 16, 8), (8, 4)), (1, 16, 4), 1, 1, 1, (1.0,))
    packed = Node("n", "MatMul", ("x", "w"), ("n",), ((1, 16, 8),), (1, 16, 4), 1, 1, 1, (1.0,))
    attention = Node("n", "MatMul", ("x", "y"), ("n",), ((1, 16, 8), (1, 8, 4)), (1, 16, 4), 1, 1, 1, (1.0,))
    assert node_signature(weighted) == node_signature(packed) == kernel_signature(kernel)
    assert node_signature(attention) != kernel_signature(kernel)


def test_convolutions_in_integers_are_found_although_their_channels_come_last() -> None:
    ops = OpList((16, 8, 8))
    ops.depthwise_conv("depthwise", ops.conv("pointwise", SOURCE, 40), kernel=3)
    nodes, events = [], []
    for number, (window, groups, channels) in enumerate([(1, 1, 16), (3, 40, 40)]):
        sizes = {"kernel_shape": [window, window], "group": groups, "channels_last": 1}
        nodes.append(onnx.helper.make_node("QLinearConv", [f"{number}"], [f"{number + 1}"], name=f"n{number}", **sizes))
        told = {
            f"{side}_type_shape": [{"uint8": [1, 8, 8, size]}] for side, size in (("input", channels), ("output", 40))
        }
        arguments = {"node_index": f"{number}", "op_name": "QLinearConv", **told}
        events.append({"cat": "Node", "name": f"n{number}_kernel_time", "dur": 5, "args": arguments})
    found = match(fuse(ops.ops, ONNX_RUNTIME_INT8), read_nodes(events, nodes, 0))
    assert [sample.kernel.op for sample in found.samples] == ["pointwise_conv@int8", "depthwise_conv@int8"]


def test_one_network_is_measured_by_the_statistic_that_is_asked_for(network: Path, tmp_path: Path) -> None:
    measurement = measure_network(network, TINY, statistic="p5")
    assert measurement.statistic == "p5"
    assert 0 < measurement.min_ms <= measurement.ms <= measurement.p95_ms
    with pytest.raises(ProfileError, match="there is no file"):
        measure_network(tmp_path / "nothing.onnx", statistic="p5")
