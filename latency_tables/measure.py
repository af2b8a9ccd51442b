"""Measured latency of ONNX files on this machine, each session in a subprocess.

A process that has trained for minutes runs the same network about 5 % slower than a fresh one (seen with ONNX Runtime
on x86-64; its memory is in pieces by then), and nothing that ships runs in such a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.repeats import ONE, STANDARD, Measurement, MeasurementSession, Progress, Protocol, Statistic
from latency_tables.runtimes import get_runtime
from latency_tables.transports.local import LocalTransport


def measure_network(
    path: Path, protocol: Protocol = ONE, progress: Progress | None = None, statistic: Statistic | None = None
) -> Measurement:
    """The latency of one network, for example of a search's winner.

    Args:
        path: The network's ONNX file.
        protocol: How long and how often to measure.
        progress: Called at every repeat.
        statistic: Statistic of the table that it is compared with; None chooses by how steady the machine is.

    Raises:
        BusyMachineError: The machine is too busy for a number.
        ProfileError: ONNX Runtime cannot run the file.
    """
    return measure_networks([path], protocol, progress, statistic).measurements[0]


def measure_networks(
    paths: Sequence[Path],
    protocol: Protocol = STANDARD,
    progress: Progress | None = None,
    statistic: Statistic | None = None,
) -> MeasurementSession:
    """Measure networks with ONNX Runtime in interleaved rounds; the first one is the anchor.

    Args:
        paths: ONNX files of the networks.
        protocol: How long and how often to measure.
        progress: Called at every repeat.
        statistic: What to give; None gives medians on a steady machine and 5th percentiles otherwise.

    Raises:
        BusyMachineError: With several threads, fewer than half of a network's runs were clean.
        ProfileError: ONNX Runtime cannot run one of the files.
    """
    with LocalTransport() as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport, threads=protocol.threads)
        return measure(runner, [NetworkFile(path) for path in paths], protocol, progress=progress, statistic=statistic)
