"""A short session of measurements on this machine, long enough to be killed."""

from __future__ import annotations

from pathlib import Path

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import Protocol
from latency_tables.runtimes import get_runtime
from latency_tables.transports import open_transport
from tests.support.onnx_networks import save_network

SLOW = Protocol(rounds=6, rounds_limit=6, warm_up_runs=1, warm_up_seconds=0.0, runs=5, seconds=0.1, restarts=0)


def network_files(folder: Path, count: int) -> list[NetworkFile]:
    for number in range(count):
        save_network(folder / f"{number}.onnx", 16, 1 + number)
    return [NetworkFile(folder / f"{number}.onnx", (1, 8, 16, 16)) for number in range(count)]


def run_session(folder: Path, protocol: Protocol) -> None:
    with open_transport("local") as transport:
        journal = MeasurementJournal(folder / "journal.jsonl", {"protocol": "slow"})
        measure(
            DeviceRunner(get_runtime("onnxruntime"), transport), network_files(folder, 3), protocol, journal=journal
        )
