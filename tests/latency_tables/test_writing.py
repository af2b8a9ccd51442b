"""Networks that are written while others are measured: first repeats as they come, and what goes wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from latency_tables.device_runner import DeviceRunner, NetworkFile, measure
from latency_tables.errors import ProfileError
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import Protocol, round_plan
from latency_tables.runtimes import get_runtime
from latency_tables.transports.local import LocalTransport
from tests.support.onnx_networks import save_network

BRIEF = Protocol(rounds=2, rounds_limit=2, warm_up_runs=1, warm_up_seconds=0.0, runs=2, seconds=0.0, restarts=0)


class Slow:
    """Writes a file when it is waited for, and notes what had been measured by then."""

    def __init__(self, journal: MeasurementJournal, breaks_at: str = "") -> None:
        self.journal, self.breaks_at = journal, breaks_at
        self.measured_before: dict[str, int] = {}

    def is_written(self, path: Path) -> bool:
        return path.exists()

    def wait(self, path: Path) -> None:
        if path.exists():
            return
        if path.stem == self.breaks_at:
            raise ProfileError(f"network `{path.stem}`: it cannot be exported")
        self.measured_before[path.stem] = len(self.journal.of_kind("visit"))
        save_network(path, 16, 1 + int(path.stem))


def run(folder: Path, journal: MeasurementJournal, breaks_at: str = "") -> Slow:
    writer = Slow(journal, breaks_at)
    files = [NetworkFile(folder / f"{number}.onnx", (1, 8, 16, 16), writing=writer) for number in range(3)]
    told: list[tuple[str, int, int]] = []
    with LocalTransport() as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        measure(runner, files, BRIEF, journal=journal, progress=lambda *step: told.append(step))
    assert told[-1] == ("measure", 2 * len(round_plan(3)), 2 * len(round_plan(3)))
    return writer


def test_networks_have_their_first_repeats_as_they_are_written(tmp_path: Path) -> None:
    journal = MeasurementJournal(tmp_path / "journal.jsonl")
    with pytest.raises(ProfileError, match="network `2`: it cannot be exported"):
        run(tmp_path, journal, breaks_at="2")
    assert [record["step"] for record in journal.of_kind("visit")] == [[0, 0], [0, 1]]
    writer = run(tmp_path, journal)  # goes on where it was
    assert writer.measured_before == {"2": 2}
    steps = [tuple(record["step"]) for record in journal.of_kind("visit")]
    assert sorted(steps) == [(number, step) for number in range(2) for step in range(len(round_plan(3)))]
