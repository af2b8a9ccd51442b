"""Measured latency of ONNX files on this machine, each session in a subprocess.

A process that has trained for minutes runs the same network about 5 % slower than a fresh one (seen with ONNX Runtime
on x86-64; its memory is in pieces by then), and nothing that ships runs in such a process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.errors import ProfileError
from latency_tables.repeats import (
    ONE,
    QUICK,
    STANDARD,
    Clock,
    Measurement,
    MeasurementSession,
    Progress,
    Protocol,
    Repeat,
    Statistic,
    is_clean,
    mostly_steady,
    summarise,
    summarise_all,
)
from latency_tables.runtimes import get_runtime, onnx_runtime
from latency_tables.transports.local import LocalTransport

__all__ = [
    "ONE",
    "QUICK",
    "Clock",
    "Measurement",
    "MeasurementSession",
    "Progress",
    "Protocol",
    "Repeat",
    "Statistic",
    "is_clean",
    "make_session",
    "measure_network",
    "measure_networks",
    "mostly_steady",
    "random_inputs",
    "summarise",
    "summarise_all",
]


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


def make_session(
    path: Path, threads: int = 1, profile_prefix: Path | None = None, optimised: Path | None = None
) -> Any:
    """An ONNX Runtime session on the CPU, as the worker makes it.

    Args:
        path: The ONNX file.
        threads: Threads within an operator.
        profile_prefix: Where given, profiling is on and its files start with this path.
        optimised: Where given, the optimised graph is written to this path, its weights beside it.

    Raises:
        ProfileError: The file cannot be loaded.
    """
    try:
        return onnx_runtime.make_session(
            str(path),
            threads,
            None if profile_prefix is None else str(profile_prefix),
            None if optimised is None else str(optimised),
        )
    except Exception as error:  # the runtime's exceptions share no base of their own
        raise ProfileError(f"network `{path}`: ONNX Runtime cannot load it: {error}") from error


def random_inputs(session: Any) -> Mapping[str, Any]:
    """Normal random inputs of the session's fixed shapes.

    Raises:
        ProfileError: An input has a free dimension or is not fp32.
    """
    try:
        return onnx_runtime.random_inputs(session)
    except ValueError as error:
        raise ProfileError(str(error)) from error
