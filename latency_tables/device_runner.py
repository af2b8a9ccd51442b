"""Running the worker on a device: what it is asked, what it answers, and the record that survives a kill.

The worker takes times and decides nothing; which repeats are due follows from the record alone
(`latency_tables.repeats`), so that a session that was killed asks for what is missing, and for nothing twice.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from latency_tables.errors import ProfileError
from latency_tables.measurement_journal import MeasurementJournal
from latency_tables.repeats import (
    MeasurementSession,
    Progress,
    Protocol,
    Repeat,
    Round,
    Statistic,
    accept_rounds,
    quiet_share,
    require_unthrottled,
    round_plan,
    rounds_wanted,
    summarise_all,
    undisturbed_share,
)
from latency_tables.runtimes.base import Runtime, RuntimeMissingError
from latency_tables.transports.base import Transport
from latency_tables.transports.local import LocalTransport
from latency_tables.writing import ALL_WRITTEN, Writing
from search_spaces.json_file import parse_json

_WORKER = Path(__file__).with_name("worker.py")
PROFILE_GROUP = 12
"""Networks that are profiled at a time, in turns; what a kill loses at most."""
PROFILE_TURNS, PROFILE_RUNS, PROFILE_WARM_UP = 3, 4, 2
COOL_SECONDS = 60.0
"""Seconds that the device waits before a repeat while its accelerator throttles."""


@dataclass(frozen=True)
class NetworkFile:
    """A network as a runtime's file.

    Attributes:
        path: The file on this machine.
        input_shape: Batch, colours, rows and columns; None where the file itself says it.
        expected: Outputs of PyTorch, as the worker's ``digest`` has them, or a JSON file of them that is written before
            the network; None where nobody computed them.
        writing: Who writes the file.
    """

    path: Path
    input_shape: tuple[int, ...] | None = None
    expected: Mapping[str, Any] | Path | None = None
    writing: Writing = ALL_WRITTEN


@dataclass
class DeviceRunner:
    """Where networks are measured, and with what.

    Attributes:
        python: The Python on the device that has the runtime.
        pin: Whether to stay on one core, where the device lets us.
    """

    runtime: Runtime
    transport: Transport
    python: str = sys.executable
    threads: int = 1
    pin: bool = True
    _sent: dict[Path, str] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What the device says about itself, with the runtime's version under ``runtime_version``.

        Raises:
            RuntimeMissingError: The runtime is not installed there.
            TransportError: The device does not answer.
        """
        found: list[dict[str, Any]] = []
        self.ask({"task": "facts"}, found.append)
        facts = {name: value for name, value in found[0].items() if name != "kind"}
        if "missing" in facts:
            raise RuntimeMissingError(f"runtime `{self.runtime.name}`: {facts['missing']}", facts["remedy"])
        if facts.get("runtime_version") is None:
            raise self._missing(f"`{self.runtime.distribution}` is not installed")
        return facts

    def send(self, path: Path) -> str:
        """Have a file on the device, and say where."""
        if isinstance(self.transport, LocalTransport):
            return str(path.resolve())
        if path not in self._sent:
            remote = self.transport.scratch / f"{len(self._sent)}{path.suffix}"
            self.transport.push(path, remote)
            self._sent[path] = str(remote)
        return self._sent[path]

    def ask(self, request: Mapping[str, Any], on_record: Callable[[dict[str, Any]], None]) -> None:
        """Run the worker and pass on what it says.

        Raises:
            ProfileError: It failed.
            RuntimeMissingError: Python or a package is missing on the device.
            TransportError: The device has gone.
        """
        remote, worker, runtime = (
            self.transport.scratch / name for name in ("request.json", "worker.py", "nas_runtime.py")
        )
        request = {
            "distribution": self.runtime.distribution,
            "runtime_file": str(runtime),
            "cool_seconds": COOL_SECONDS,
            "memory_bytes": self.runtime.memory_bytes,
            "threads": self.threads,
            "pin": self.pin and self.runtime.pins,
            **request,
        }
        ended = False

        def on_line(line: str) -> None:
            nonlocal ended
            try:
                record = json.loads(line)
            except ValueError:
                return  # a runtime's own remark
            if isinstance(record, dict) and "kind" in record:
                ended |= record["kind"] == "done"
                on_record(record)

        with tempfile.TemporaryDirectory(prefix="nas-request-") as folder:
            for path, text in ((remote, json.dumps(request)), (runtime, self.runtime.device_source())):
                file = Path(folder) / path.name
                file.write_text(text, encoding="utf-8")
                self.transport.push(file, path)
            self.transport.push(_WORKER, worker)  # even here: beside it, Python would find our modules for its own
        result = self.transport.run([self.python, str(worker), str(remote)], on_line=on_line)
        if not ended:
            raise self._ended_early(result.returncode, result.stderr)

    def problem(self, path: Path, message: str) -> ProfileError | RuntimeMissingError:
        """The error for a network that the worker could not run."""
        if message.startswith(("ModuleNotFoundError", "ImportError")):
            return self._missing(message)
        return ProfileError(f"network `{path}`: {self.runtime.title} cannot load it: {message}")

    def _ended_early(self, code: int, stderr: str) -> ProfileError | RuntimeMissingError:
        last = (stderr.strip().splitlines() or ["no message"])[-1]
        if code == 127 or "ModuleNotFoundError" in last:
            return self._missing(last)
        if code in (137, -9):
            return ProfileError(f"the measuring worker was killed (exit code {code})", "the device may lack memory")
        return ProfileError(f"the measuring worker ended with exit code {code}: {last}")

    def _missing(self, reason: str) -> RuntimeMissingError:
        packages = " ".join(self.runtime.packages)
        if isinstance(self.transport, LocalTransport):
            hint = self.runtime.install_commands()
        else:
            hint = f"on the device: python3 -m pip install {packages}; name its Python with --python"
        return RuntimeMissingError(f"`{self.python}` cannot run {self.runtime.title}: {reason}", hint)


def measure(
    runner: DeviceRunner,
    networks: Sequence[NetworkFile],
    protocol: Protocol,
    *,
    journal: MeasurementJournal | None = None,
    progress: Progress | None = None,
    statistic: Statistic | None = None,
    least_undisturbed: float = 0.0,
) -> MeasurementSession:
    """Measure networks in interleaved rounds; the first one is the anchor.

    Networks that are still being written have their first repeats as they come; the rounds go on when all are there.

    Args:
        runner: Where, and with what.
        networks: Files of the networks, in the same order whenever the same journal is given.
        protocol: How long and how often to measure.
        journal: What has been measured already; what is measured now is added.
        progress: Called at every repeat.
        statistic: What to give; None gives medians on a steady machine and 5th percentiles otherwise.
        least_undisturbed: Share of undisturbed repeats below which no rounds are added: whoever asks will refuse.

    Raises:
        BusyMachineError: With several threads, fewer than half of a network's runs were clean; or the accelerator
            throttled in too many rounds.
        ProfileError: A network cannot be run, or does not compute what it should.
        RuntimeMissingError: The runtime is not installed on the device.
        TransportError: The device has gone.
    """
    journal = journal or MeasurementJournal()
    names = [network.path.stem for network in networks]
    plan = round_plan(len(networks))
    begun = len(_rounds(journal))
    while True:
        rounds = _rounds(journal)
        accepted = accept_rounds(list(rounds.values()), plan, protocol)
        wanted = rounds_wanted(names, accepted, protocol, least_undisturbed)
        if not wanted:
            break
        require_unthrottled([each for number, each in rounds.items() if number >= begun], protocol)
        steps = _due_steps(rounds, plan, wanted)
        known = len(journal.of_kind("visit"))
        count = _counter(progress, known, known + len(steps))
        for portion in _written(steps, plan, networks):
            _measure_steps(runner, networks, plan, portion, protocol, journal, count)
        if len(journal.of_kind("visit")) < known + len(steps):
            raise ProfileError("the measuring worker left repeats out", "build again")
    measurements = summarise_all(names, accepted.repeats, protocol.threads, statistic)
    shares = quiet_share(accepted.repeats), undisturbed_share(accepted.repeats)
    return MeasurementSession(measurements, accepted.drift, accepted.restarted, *shares)


def profile(
    runner: DeviceRunner,
    networks: Sequence[NetworkFile],
    folder: Path,
    journal: MeasurementJournal,
    progress: Progress | None = None,
) -> list[tuple[Path, Path]]:
    """Profile networks with ONNX Runtime.

    Args:
        folder: Where to keep what is fetched from the device.

    Returns:
        Per network, the file of the profiler's events and the optimised graph without its weights.

    Raises:
        ProfileError: A network cannot be run.
        TransportError: The device has gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done = {record["position"] for record in journal.of_kind("profiled")}
    found = {position for position in done if all(path.exists() for path in _profile_files(folder, position))}
    due = [position for position in range(len(networks)) if position not in found]
    for start in range(0, len(due), PROFILE_GROUP):
        group = due[start : start + PROFILE_GROUP]
        for record in _profile_group(runner, networks, group):
            position = int(record["network"])
            events, graph = _profile_files(folder, position)
            runner.transport.pull(PurePosixPath(record["events"]), events)
            runner.transport.pull(PurePosixPath(record["graph"]), graph)
            journal.append({"kind": "profiled", "position": position})
            if progress is not None:
                progress("profile", len(networks) - len(due) + due.index(position) + 1, len(networks))
    return [_profile_files(folder, position) for position in range(len(networks))]


def _rounds(journal: MeasurementJournal) -> dict[int, Round]:
    repeats: dict[int, dict[int, Repeat]] = {}
    for record in journal.of_kind("visit"):
        number, step = record["step"]
        throttled = tuple(record.get("throttled", ()))
        repeat = Repeat(tuple(record["wall_ms"]), tuple(record["cpu_ms"]), record["others_busy"], throttled)
        repeats.setdefault(number, {})[step] = repeat
    return {number: Round(steps) for number, steps in sorted(repeats.items())}


def _due_steps(rounds: Mapping[int, Round], plan: Sequence[int], wanted: int) -> list[tuple[int, int]]:
    """Round and step of every repeat that is due: what a kill left out first, then new rounds."""
    open_rounds = [number for number, each in rounds.items() if not each.is_complete(plan)]
    new = range(len(rounds), len(rounds) + max(0, wanted - len(open_rounds)))
    taken = {(number, step) for number, each in rounds.items() for step in each.repeats}
    return [
        (number, step) for number in [*open_rounds, *new] for step in range(len(plan)) if (number, step) not in taken
    ]


def _written(
    steps: Sequence[tuple[int, int]], plan: Sequence[int], networks: Sequence[NetworkFile]
) -> Iterator[list[tuple[int, int]]]:
    """The steps in portions whose networks are written; in one where all of them are."""
    portion: list[tuple[int, int]] = []
    for step in steps:
        network = networks[plan[step[1]]]
        if portion and not network.writing.is_written(network.path):
            yield portion
            portion = []
        network.writing.wait(network.path)
        portion.append(step)
    yield portion


def _counter(progress: Progress | None, done: int, total: int) -> Callable[[], None]:
    """What is to be called at every repeat."""

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("measure", done, total)

    return count


def _measure_steps(
    runner: DeviceRunner,
    networks: Sequence[NetworkFile],
    plan: Sequence[int],
    steps: Sequence[tuple[int, int]],
    protocol: Protocol,
    journal: MeasurementJournal,
    count: Callable[[], None],
) -> None:
    def on_record(record: dict[str, Any]) -> None:
        if record["kind"] == "error":
            raise runner.problem(networks[int(record["network"])].path, record["message"])
        if record["kind"] == "loaded":
            _check_loaded(networks[int(record["network"])], record, runner.runtime)
        if record["kind"] in ("facts", "loaded", "visit", "done"):
            journal.append(record)
        if record["kind"] == "visit":
            count()

    used = sorted({plan[step] for _, step in steps})
    times = {name: value for name, value in asdict(protocol).items() if name not in ("rounds", "threads")}
    request = {
        "task": "measure",
        **times,
        "networks": {str(position): _entry(runner, networks[position]) for position in used},
        "steps": [[step, str(plan[step[1]])] for step in steps],
    }
    runner.ask(request, on_record)


def _profile_group(runner: DeviceRunner, networks: Sequence[NetworkFile], group: Sequence[int]) -> list[dict[str, Any]]:
    records = []

    def on_record(record: dict[str, Any]) -> None:
        if record["kind"] == "error":
            raise runner.problem(networks[int(record["network"])].path, record["message"])
        if record["kind"] == "profile":
            records.append(record)

    request = {
        "task": "profile",
        "networks": {str(position): _entry(runner, networks[position]) for position in group},
        "folder": str(runner.transport.scratch),
        "turns": PROFILE_TURNS,
        "runs": PROFILE_RUNS,
        "warm_up": PROFILE_WARM_UP,
    }
    runner.ask(request, on_record)
    return records


def _entry(runner: DeviceRunner, network: NetworkFile) -> dict[str, Any]:
    return {"path": runner.send(network.path), "input_shape": network.input_shape}


def _profile_files(folder: Path, position: int) -> tuple[Path, Path]:
    return folder / f"{position}.events.json", folder / f"{position}.onnx"


def _check_loaded(network: NetworkFile, record: Mapping[str, Any], runtime: Runtime) -> None:
    if record["precision"] != runtime.precision:
        raise ProfileError(
            f"network `{network.path}`: {runtime.title} computes in {record['precision']}, expected {runtime.precision}"
        )
    expected, output = network.expected, record["output"]
    if expected is None:
        return
    if isinstance(expected, Path):
        expected = parse_json(expected.read_bytes())
    problem = f"network `{network.path}`: {runtime.title} computes something else than PyTorch"
    if output["count"] != expected["count"]:
        raise ProfileError(f"{problem}: found {output['count']} numbers, expected {expected['count']}")
    largest = max(abs(value) for value in expected["picked"])
    pairs = zip(output["picked"], expected["picked"], strict=True)
    difference = max(abs(found - wanted) for found, wanted in pairs)
    limit = runtime.tolerance * largest
    if not difference <= limit:  # a NaN is no agreement
        raise ProfileError(f"{problem}: found differences of {difference:.2g}, expected at most {limit:.2g}")
