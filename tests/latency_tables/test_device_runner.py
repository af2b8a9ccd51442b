"""Sessions: which repeats are due, what a kill leaves behind, and what the worker says about networks it cannot run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latency_tables import worker
from latency_tables.device_runner import DeviceRunner, NetworkFile, measure, profile
from latency_tables.errors import ProfileError
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import (
    Accepted,
    Protocol,
    Repeat,
    Round,
    accept_rounds,
    quiet_share,
    round_plan,
    rounds_wanted,
    undisturbed_share,
)
from latency_tables.runtimes import RuntimeMissingError, get_runtime
from latency_tables.runtimes.onnx_runtime import OnnxRuntime
from latency_tables.transports import CommandResult, OnLine, open_transport
from latency_tables.transports.local import LocalTransport
from tests.support.sessions import SLOW, network_files, run_session

TINY = Protocol(rounds=3, rounds_limit=3, warm_up_runs=2, warm_up_seconds=0.0, runs=5, seconds=0.0, restarts=0)


def repeat(ms: float, busy: float | None = None, ours: float = 1.0) -> Repeat:
    """A repeat during which the other processors were busy, and ours was ours, for these shares of the time."""
    return Repeat((ms,) * 5, (ms * ours,) * 5, busy)


def rounds(anchor_ms: Sequence[Sequence[float]], networks: int) -> list[Round]:
    """Rounds whose anchor takes the given times, and every other network 1 ms."""
    plan = round_plan(networks)
    made = []
    for times in anchor_ms:
        waiting = list(times)
        made.append(Round({step: repeat(waiting.pop(0) if not network else 1.0) for step, network in enumerate(plan)}))
    return made


def test_the_anchor_is_visited_first_last_and_in_between() -> None:
    assert round_plan(1) == [0]
    assert round_plan(3) == [0, 1, 2, 0]
    plan = round_plan(45)
    assert [step for step, network in enumerate(plan) if network == 0] == [0, 21, 42, 47]
    assert [network for network in plan if network] == list(range(1, 45))


def test_rounds_whose_anchor_drifts_start_again_until_there_are_no_restarts_left() -> None:
    steady, drifting, unfinished = [1.0, 1.01], [1.0, 1.2], Round({0: repeat(1.0)})
    accepted = accept_rounds(
        [*rounds([drifting, steady, drifting], 2), unfinished], round_plan(2), Protocol(restarts=1)
    )
    assert (accepted.rounds, accepted.restarted) == (2, 1)
    assert accepted.drift == pytest.approx(0.2)


def test_the_quiet_share_counts_visits_during_which_other_processors_idled() -> None:
    assert quiet_share([[repeat(1, 0.1), repeat(1, 0.9)], [repeat(1, 0.5), repeat(1)]]) == pytest.approx(2 / 3)
    assert quiet_share([[repeat(1)]]) is None


def test_a_busy_neighbour_disturbs_only_where_our_processor_is_shared_too() -> None:
    neighbour, crowd = repeat(1, 0.9), repeat(1, 0.9, ours=0.5)
    assert undisturbed_share([[repeat(1, 0.1), neighbour], [crowd, repeat(1, 0.1, ours=0.5)]]) == 0.75
    assert undisturbed_share([[repeat(1)]]) is None


def test_unsteady_rounds_are_repeated_but_not_where_others_never_stop() -> None:
    protocol = Protocol(rounds=2, rounds_limit=5)
    first, second = repeat(1, 0.9, ours=0.5), repeat(2, 0.9, ours=0.5)
    assert rounds_wanted(["a"], Accepted([[first]], 0.0, 0), protocol, 0.1) == 1
    assert rounds_wanted(["a"], Accepted([[first, second]], 0.0, 0), protocol) == 2
    assert rounds_wanted(["a"], Accepted([[first, second]], 0.0, 0), protocol, 0.1) == 0
    assert rounds_wanted(["a"], Accepted([[repeat(1, 0.9), repeat(2, 0.9)]], 0.0, 0), protocol, 0.1) == 2


def test_a_journal_survives_a_torn_line_and_sets_other_settings_aside(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = MeasurementJournal(path, {"seed": 1})
    visit = {"kind": "visit", "step": [0, 0], "wall_ms": [1.5], "cpu_ms": [1.5], "others_busy": None}
    journal.append(visit)
    with path.open("ab") as file:
        file.write(b'{"kind": "visit", "st')
    again = MeasurementJournal(path, {"seed": 1})
    assert again.records == [visit]
    again.append({**visit, "step": [0, 1]})
    assert len(path.read_bytes().splitlines()) == 3
    other = MeasurementJournal(path, {"seed": 2})
    assert other.records == []
    assert other.set_aside == tmp_path / "journal.other-settings-1.jsonl"
    assert [record["step"] for record in MeasurementJournal(other.set_aside, {"seed": 1}).records] == [[0, 0], [0, 1]]


def steps(journal: Path) -> list[list[int]]:
    records = [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    return [record["step"] for record in records if record["kind"] == "visit"]


KILLED = """
from pathlib import Path
from tests.support.sessions import SLOW, run_session
run_session(Path({folder!r}), SLOW)
"""


def test_a_killed_session_goes_on_where_it_was(tmp_path: Path) -> None:
    script = KILLED.format(folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script])
    journal = tmp_path / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() or len(steps(journal)) < 6:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = steps(journal)
    assert len(kept) < SLOW.rounds * len(round_plan(3)), "it was done before it could be killed"
    run_session(tmp_path, SLOW)
    found = steps(journal)
    assert found[: len(kept)] == kept
    assert max(Counter(map(tuple, found)).values()) == 1
    assert sorted(found) == [[number, step] for number in range(SLOW.rounds) for step in range(len(round_plan(3)))]
    before = journal.read_bytes()
    run_session(tmp_path, SLOW)
    assert journal.read_bytes() == before  # nothing was left to do


def test_wrong_outputs_are_found_out(tmp_path: Path) -> None:
    (file,) = network_files(tmp_path, 1)
    expected: dict[str, Any] = {"count": 4, "picked": [1.0, 2.0, 3.0, 4.0]}
    with open_transport("local") as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        with pytest.raises(ProfileError, match=r"something else than PyTorch: found differences of .* at most"):
            measure(runner, [NetworkFile(file.path, file.input_shape, expected)], TINY)
        with pytest.raises(ProfileError, match="found 4 numbers, expected 5"):
            measure(runner, [NetworkFile(file.path, file.input_shape, {**expected, "count": 5})], TINY)
        with pytest.raises(ProfileError, match=r"inputs are \[\[1, 8, 16, 16\]\], expected \[\[1, 3, 16, 16\]\]"):
            measure(runner, [NetworkFile(file.path, (1, 3, 16, 16))], TINY)


def test_profiles_come_back_without_weights_and_are_not_taken_twice(tmp_path: Path) -> None:
    files = network_files(tmp_path, 2)
    journal = MeasurementJournal()
    with open_transport("local") as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        found = profile(runner, files, tmp_path / "profiles", journal)
        assert [record["position"] for record in journal.of_kind("profiled")] == [0, 1]
        written = [path.stat().st_mtime_ns for pair in found for path in pair]
        again = profile(runner, files, tmp_path / "profiles", journal)
    assert [path.stat().st_mtime_ns for pair in again for path in pair] == written
    for events, graph in found:
        assert any(event.get("cat") == "Node" for event in json.loads(events.read_text()))
        assert graph.stat().st_size < 5000


class Scripted(LocalTransport):
    """A device whose worker says what it is told to."""

    def __init__(self, lines: Sequence[str], code: int, stderr: str) -> None:
        super().__init__()
        self._answer = (lines, code, stderr)

    def run(self, argv: Sequence[str], *, on_line: OnLine | None = None, timeout: float | None = None) -> CommandResult:
        if argv[0] == "rm":
            return super().run(argv)
        lines, code, stderr = self._answer
        for line in lines:
            assert on_line is not None
            on_line(line)
        return CommandResult(code, "", stderr)


@pytest.mark.parametrize(
    ("lines", "code", "stderr", "error", "message"),
    [
        ([], 127, "sh: python3: not found\n", RuntimeMissingError, "cannot run ONNX Runtime: sh: python3: not found"),
        ([], 1, "ModuleNotFoundError: No module named 'numpy'\n", RuntimeMissingError, "No module named 'numpy'"),
        (['{"kind": "facts"}', '{"kind": "done"}'], 0, "", RuntimeMissingError, "`onnxruntime` is not installed"),
        (['{"kind": "facts"}'], 137, "", ProfileError, "was killed"),
        (["a remark", "[1]"], 1, "Traceback\nOSError: bad\n", ProfileError, "ended with exit code 1: OSError: bad"),
    ],
)
def test_what_is_wrong_on_the_device_is_said(
    lines: list[str], code: int, stderr: str, error: type[Exception], message: str
) -> None:
    with Scripted(lines, code, stderr) as transport:
        runner = DeviceRunner(get_runtime("onnxruntime"), transport)
        with pytest.raises(error, match=message):
            runner.facts()


def load_doubling(path: str, threads: int, shape: list[int] | None) -> tuple[Any, str]:
    return (lambda array: times_two(array)), "fp32"


def load_bf16(path: str, threads: int, shape: list[int] | None) -> tuple[Any, str]:
    return (lambda array: array), "bf16"


def load_nan(path: str, threads: int, shape: list[int] | None) -> tuple[Any, str]:
    return (lambda array: array * np.nan), "fp32"


def times_two(array: Any) -> Any:
    import numpy

    return numpy.multiply(array, 2)


def clock_of_the_device(run: Any, image: Any) -> tuple[int, int]:
    run(image)
    return 7_000_000, 7_000_000


class Doubling(OnnxRuntime):
    """A runtime of somebody else's."""

    name = "doubling"
    helpers = (times_two,)
    load = staticmethod(load_doubling)
    clock = staticmethod(clock_of_the_device)


class InBf16(OnnxRuntime):
    helpers = ()
    load = staticmethod(load_bf16)


class WithoutNumbers(OnnxRuntime):
    helpers = ()
    load = staticmethod(load_nan)


def test_a_runtime_owns_its_loader_and_its_clock(tmp_path: Path) -> None:
    array = worker.random_image([1, 3, 2, 2])
    file = tmp_path / "anything.onnx"
    file.write_bytes(b"")
    with open_transport("local") as transport:
        network = NetworkFile(file, (1, 3, 2, 2), worker.digest(2.0 * array.astype(float)))
        measured = measure(DeviceRunner(Doubling(), transport), [network], TINY).measurements[0]
    assert (measured.ms, measured.iqr_ms) == (7.0, 0.0)


def test_another_precision_is_refused(tmp_path: Path) -> None:
    (file,) = network_files(tmp_path, 1)
    with open_transport("local") as transport, pytest.raises(ProfileError, match="computes in bf16, expected fp32"):
        measure(DeviceRunner(InBf16(), transport), [file], TINY)


def test_outputs_that_are_no_numbers_are_kept_and_disagree(tmp_path: Path) -> None:
    (file,) = network_files(tmp_path, 1)
    with open_transport("local") as transport:
        runner = DeviceRunner(WithoutNumbers(), transport)
        measure(runner, [file], TINY, journal=MeasurementJournal(tmp_path / "journal.jsonl"))
        expected = worker.digest(worker.random_image([1, 8, 16, 16]))
        with pytest.raises(ProfileError, match="found differences of nan"):
            measure(runner, [NetworkFile(file.path, file.input_shape, expected)], TINY)


def test_processors_are_busy_by_their_ticks() -> None:
    before, after = {0: (100, 1000), 1: (50, 1000)}, {0: (200, 1100), 1: (75, 1100)}
    assert worker.busy_shares(before, after) == {0: 1.0, 1: 0.25}
    assert worker.others_busy(before, after, [0]) == pytest.approx(0.25)
    assert worker.others_busy(before, before, [0]) is None
    assert worker.others_busy(before, after, []) is None
