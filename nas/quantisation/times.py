"""What each layer takes in each precision, from profiles of one network written in each of them.

Kernel times add up: where only the inputs of weighted layers are quantised, nothing else of the network changes. The
profiler's own time per kernel, the same for all, is what its sum exceeds the measured time by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latency_tables.device_runner import PROFILE_WARM_UP, DeviceRunner, NetworkFile, profile
from latency_tables.measure import measure_networks
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.onnx_quantised import Precision, layer_of
from latency_tables.profile import Node, read_profile
from latency_tables.repeats import QUICK
from latency_tables.runtimes import get_runtime
from latency_tables.transports.local import LocalTransport


@dataclass(frozen=True)
class LayerTimes:
    """Times in milliseconds.

    Attributes:
        whole: The network in each precision that it was written in.
        layers: The kernel of each layer in each precision, where it could be told from others.
        quantisers: Quantising what each layer reads in ``int8``.
    """

    whole: Mapping[Precision, float]
    layers: Mapping[str, Mapping[Precision, float]]
    quantisers: Mapping[str, float]


def layer_times(files: Mapping[Precision, Path], names: Sequence[str], folder: Path) -> LayerTimes:
    """Profile a network that is written in several precisions, and measure it in turns.

    Args:
        files: Its ONNX files, with nodes named after layers; ``fp32`` is among them.
        names: Names of its layers.
        folder: Where to keep profiles.

    Raises:
        BusyMachineError: The machine is too busy for a number.
        ProfileError: ONNX Runtime cannot run a file.
    """
    measured = measure_networks(list(files.values()), QUICK).measurements
    whole = {precision: each.ms for precision, each in zip(files, measured, strict=True)}
    with LocalTransport() as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        profiles = profile(runner, [NetworkFile(path) for path in files.values()], folder, MeasurementJournal())
    nodes = {precision: read_profile(*found, PROFILE_WARM_UP) for precision, found in zip(files, profiles, strict=True)}
    total_ms = 1e-3 * sum(node.microseconds for node in nodes["fp32"])
    launch_us = max(0.0, 1e3 * (total_ms - whole["fp32"]) / len(nodes["fp32"]))
    layers: dict[str, dict[Precision, float]] = defaultdict(dict)
    quantisers: dict[str, float] = {}
    known = set(names)
    for precision, found in nodes.items():
        for name, us in _kernels(found, known, launch_us).items():
            layers[name][precision] = 1e-3 * us
        if precision == "int8":
            quantisers = {name: 1e-3 * us for name, us in _quantisers(found, known, launch_us).items()}
    return LayerTimes(whole, layers, quantisers)


def _kernels(nodes: Sequence[Node], known: set[str], launch_us: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for node in nodes:
        name = layer_of(node.name, known)
        if name is not None:
            found[name] = found.get(name, 0.0) + max(node.microseconds - launch_us, 0.0)
    return found


def _quantisers(nodes: Sequence[Node], known: set[str], launch_us: float) -> dict[str, float]:
    readers: dict[str, list[Node]] = defaultdict(list)
    for node in nodes:
        for tensor in node.inputs:
            readers[tensor].append(node)
    found: dict[str, float] = {}
    for node in nodes:
        if node.operator == "QuantizeLinear":
            waiting = [reader for tensor in node.outputs for reader in readers[tensor]]
            while waiting:
                reader = waiting.pop()
                name = layer_of(reader.name, known)
                if name is not None:
                    found[name] = max(node.microseconds - launch_us, 0.0)
                else:
                    waiting += [further for tensor in reader.outputs for further in readers[tensor]]
    return found
