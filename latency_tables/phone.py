"""Measuring networks on a phone: rounds of short repeats, kept only where the phone was cool and its clock steady.

A phone that is warm, or was just busy, is another device than the one in its data sheet. Before every repeat we wait
until it throttles nothing and its battery is cool; between repeats it rests as long as it worked. Repeats during which
throttling began, or after which the clock was not the one of most repeats, are not used, and neither are rounds in
which an anchor network, timed first and last, drifted. What is missing is timed again in further rounds. Every repeat
becomes a record of plain values as soon as it ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from latency_tables.benchmark_model import TOOLS, WHERE_TO_GET, RepeatSettings, Tool
from latency_tables.device_facts import (
    CONDITIONS_SCRIPT,
    Conditions,
    Core,
    DeviceFacts,
    affinity_mask,
    describe_cores,
    fastest_cores,
    masked_cores,
    parse_conditions,
    read_conditions,
    read_facts,
)
from latency_tables.errors import BusyMachineError, CommandTimeoutError, LatencyError, ProfileError, TransportError
from latency_tables.phone_repeats import (
    Coverage,
    PhoneRepeat,
    Rounds,
    anchor_drift,
    plan_round,
    summarise_repeats,
    usable,
)
from latency_tables.repeats import Measurement, Progress
from latency_tables.transports.base import Transport
from latency_tables.writing import ALL_WRITTEN, Writing
from search_spaces.errors import UnknownNameError

OnRepeat = Callable[[str, int, Mapping[str, Any]], None]
"""Called with a network's name, the round, and the repeat's record, as soon as a repeat ends."""

WAIT_STEP_S = 10.0
REPEAT_TIMEOUT_S = 600.0
_FIXED_MODE = "cmd power set-fixed-performance-mode-enabled"


@dataclass(frozen=True)
class PhoneModel:
    """A network to measure: its name, its file in the program's format, and who writes that."""

    name: str
    path: Path
    writing: Writing = ALL_WRITTEN


@dataclass(frozen=True)
class PhoneOptions:
    """How to measure.

    Attributes:
        program: The benchmark program's file on this machine, pushed to the phone; None where the device has it on its
            path, as a board has ``litert-benchmark``.
        tool: Name of the program's kind, of `latency_tables.benchmark_model.TOOLS`.
        mask: Cores to run on, in hex; None asks the device for its fastest class.
        fixed_performance: Whether to ask Android for a clock that it can sustain. It is lower than the free one:
            times with and without do not compare.
        rounds: How many rounds of repeats.
        battery_limit: Degrees Celsius above which to wait.
        wait_limit_s: How long to wait for a phone to cool down.
    """

    program: Path | None
    tool: str = "benchmark_model"
    repeat: RepeatSettings = field(default_factory=RepeatSettings)
    mask: str | None = None
    fixed_performance: bool = True
    rounds: Rounds = field(default_factory=Rounds)
    battery_limit: float = 35.0
    wait_limit_s: float = 1800.0


@dataclass(frozen=True)
class PhoneCampaign:
    """What a phone answered.

    Attributes:
        measurements: Results of the networks that could be measured, in the order they were given.
        failures: Why the others could not, by name.
        coverage: What delegates took over, by name.
        device: What the phone is.
        facts: What a table's provenance should tell about how it was measured.
        anchor_drift: Largest relative drift of the anchor within a used round.
        discarded: Number of repeats that were not used.
    """

    measurements: tuple[Measurement, ...]
    failures: Mapping[str, str]
    coverage: Mapping[str, tuple[Coverage, ...]]
    device: DeviceFacts
    facts: Mapping[str, str | int | float]
    anchor_drift: float
    discarded: int


def program_digest(program: Path | None) -> str:
    """The SHA-256 of a benchmark program, which tells two builds of it apart; empty where the device has its own."""
    return "" if program is None else hashlib.sha256(program.read_bytes()).hexdigest()


def measure_on_phone(
    transport: Transport,
    models: Sequence[PhoneModel],
    options: PhoneOptions,
    progress: Progress | None = None,
    *,
    on_repeat: OnRepeat | None = None,
    done: Sequence[Mapping[str, Any]] = (),
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.monotonic,
) -> PhoneCampaign:
    """Measure networks on a phone, or on a board with the program.

    Args:
        transport: The way there.
        models: The networks, with distinct names; the first one is the anchor.
        options: How to measure.
        progress: Called at every repeat, and when the phone must rest.
        on_repeat: Called with every repeat's record, to be kept.
        done: The records of an earlier session with the same networks, options and device.
        sleep: Waits for seconds; now tells them.

    Raises:
        BusyMachineError: The phone stays too warm, or its clock too unsteady.
        LatencyError: The fastest cores are not known, or fewer than the threads; or the program does not run there.
        ProfileError: None of the networks can be measured.
        TransportError: The phone cannot be reached any more.
        UnknownNameError: There is no such kind of program.
    """
    if options.tool not in TOOLS:
        raise UnknownNameError("benchmark program", options.tool, TOOLS)
    if not models or len({model.name for model in models}) < len(models):
        raise LatencyError(f"{len(models)} networks, expected at least one and distinct names")
    device = read_facts(transport)
    cores = fastest_cores(device.cores) if options.mask is None else masked_cores(device.cores, options.mask)
    if options.repeat.threads > len(cores):
        raise LatencyError(
            f"{options.repeat.threads} threads, but {len(cores)} core(s) in `{affinity_mask(cores)}`:"
            f" {describe_cores(cores)}",
            "use fewer threads, or name more cores by a mask",
        )
    phone = _Phone(transport, models, device, cores, options, progress or _ignore, sleep=sleep, now=now)
    phone.install()
    repeats = [PhoneRepeat.from_record(record) for record in done]
    before = read_conditions(transport)
    with _fixed_performance(transport, options.fixed_performance) as mode:
        for number in range(options.rounds.limit):
            plan = plan_round([model.name for model in models], repeats, number, options.rounds)
            rounds_left = max(0, options.rounds.needed - number - 1)
            total = len(repeats) + len(plan) + rounds_left * (len(models) + (len(models) > 1))
            for name in plan:
                phone.send(name)
                phone.progress("measure", len(repeats), total)
                repeats.append(phone.repeat(name, number, len(repeats)))
                if on_repeat is not None:
                    on_repeat(name, number, asdict(repeats[-1]))
        after = read_conditions(transport)
    return _session(models, repeats, options, device, _facts(cores, options, mode, before, after))


class _Phone:
    """A phone with the program and the networks on it."""

    def __init__(
        self,
        transport: Transport,
        models: Sequence[PhoneModel],
        device: DeviceFacts,
        cores: Sequence[Core],
        options: PhoneOptions,
        progress: Progress,
        *,
        sleep: Callable[[float], None],
        now: Callable[[], float],
    ) -> None:
        self.transport, self.device, self.cores, self.options = transport, device, cores, options
        self.models = {model.name: model for model in models}
        self.progress, self.sleep, self.now = progress, sleep, now
        self.tool: Tool = TOOLS[options.tool]
        self.program = options.tool if options.program is None else str(transport.scratch / options.tool)
        self.files: dict[str, str] = {}

    def install(self) -> None:
        if self.options.program is not None:
            if not self.options.program.is_file():
                raise LatencyError(f"`{self.options.program}`: no such program", self._where_to_get())
            self.transport.push(self.options.program, self.transport.scratch / self.options.tool)
            self.transport.run(["chmod", "755", self.program])

    def send(self, name: str) -> None:
        """Have a network's file on the phone, as soon as it is written."""
        if name in self.files:
            return
        model = self.models[name]
        model.writing.wait(model.path)
        self.progress("send", len(self.files), len(self.models))
        self.files[name] = f"{len(self.files)}{model.path.suffix}"
        self.transport.push(model.path, self.transport.scratch / self.files[name])

    def repeat(self, name: str, number: int, position: int) -> PhoneRepeat:
        before = self._wait_until_cool()
        start = self.now()
        try:
            printed, told, written = self._run_tool(name)
            timing = self.tool.parse(printed, written, self.options.repeat)
        except (ProfileError, CommandTimeoutError) as error:
            return PhoneRepeat(name, number, position, failed=str(error))
        finally:
            self.sleep(max(1.0, self.now() - start))
        after = parse_conditions(told)
        clocks = [after.clocks_khz[core.number] for core in self.cores if core.number in after.clocks_khz]
        return PhoneRepeat(
            model=name,
            round=number,
            number=position,
            ms=timing.ms,
            median=timing.median_ms is not None,
            min_ms=timing.min_ms,
            p5_ms=timing.min_ms if timing.p5_ms is None else timing.p5_ms,
            p95_ms=timing.max_ms if timing.p95_ms is None else timing.p95_ms,
            spread_ms=timing.std_ms,
            runs=timing.runs,
            clock_khz=max(clocks, default=None),
            disturbed=_disturbance(before, after, self.cores),
            coverage=tuple((c.delegate, c.nodes, c.total, c.partitions) for c in timing.coverage),
        )

    def _run_tool(self, name: str) -> tuple[str, str, str]:
        """What the program printed, the conditions right after it, and what it wrote."""
        results = self.transport.scratch / "results.json"
        model = self.transport.scratch / self.files[name]
        command = self.tool.command(self.program, model, results, self.options.repeat)
        # One round trip: the clock is read while the cores still run at what the program ended with.
        script = f'"$@" 2>&1; echo "nas-status=$?"; {CONDITIONS_SCRIPT}; true'
        if self.tool.writes_results:
            script = f"rm -f {results}; {script}; echo nas-results; cat {results} 2>/dev/null; true"
        argv = ["sh", "-c", script, "sh", "taskset", affinity_mask(self.cores), *command]
        printed, mark, rest = self.transport.run(argv, timeout=REPEAT_TIMEOUT_S).stdout.rpartition("nas-status=")
        status, _, rest = rest.partition("\n")
        if not mark:
            raise ProfileError("the device stopped the program, as Android does where memory runs out")
        if status in ("126", "127"):
            last = printed.strip().splitlines()[-1:] or ["no reason given"]
            raise LatencyError(f"`{self.options.tool}` does not run on the device: {last[0]}", self._where_to_get())
        told, _, written = rest.partition("nas-results\n")
        return printed, told, written

    def _wait_until_cool(self) -> Conditions:
        deadline = self.now() + self.options.wait_limit_s
        while True:
            conditions = read_conditions(self.transport)
            heat = _heat(conditions, self.options.battery_limit)
            if not heat:
                return conditions
            if self.now() >= deadline:
                raise BusyMachineError(
                    f"the phone is still too warm after {self.options.wait_limit_s / 60:.0f} min: {heat}",
                    "take it out of its case, turn off its screen, let it lie on something cool, and start again;"
                    " finished repeats are kept",
                )
            self.progress(f"wait: {heat}", 0, 1)
            self.sleep(WAIT_STEP_S)

    def _where_to_get(self) -> str:
        if self.options.tool == "litert-benchmark":
            return "on the board: pip install ai-edge-litert"
        abi = {"arm64-v8a": "android_aarch64", "armeabi-v7a": "android_arm"}.get(self.device.abi, "linux_aarch64")
        return f"get {WHERE_TO_GET.format(abi=abi)} and name it with `--program`"


def _session(
    models: Sequence[PhoneModel],
    repeats: Sequence[PhoneRepeat],
    options: PhoneOptions,
    device: DeviceFacts,
    facts: Mapping[str, str | int | float],
) -> PhoneCampaign:
    anchor = models[0].name
    kept = usable(repeats, anchor, options.rounds)
    failures = {repeat.model: repeat.failed for repeat in repeats if repeat.failed}
    measurements, coverage = [], {}
    for model in models:
        if model.name in failures:
            continue
        own = [repeat for repeat in kept if repeat.model == model.name]
        rounds = len({repeat.round for repeat in own})
        if rounds < options.rounds.needed:
            reasons = sorted(
                {repeat.disturbed for repeat in repeats if repeat.model == model.name and repeat.disturbed}
            )
            raise BusyMachineError(
                f"network `{model.name}`: {rounds} of {options.rounds.limit} rounds can be used, expected"
                f" {options.rounds.needed}: {'; '.join(reasons) or 'the clock or the anchor drifted'}",
                "close other apps, turn off battery saving, keep the phone cool, and start again",
            )
        measurements.append(summarise_repeats(model.name, own))
        coverage[model.name] = own[-1].coverage
    if not measurements:
        name, reason = next(iter(failures.items()))
        raise ProfileError(f"none of {len(models)} networks can be measured; `{name}`: {reason}")
    told: dict[str, str | int | float] = {
        "visit_statistic": "median" if all(repeat.median for repeat in kept) else "mean"
    }
    shares = [nodes / total for taken in coverage.values() for _, nodes, total, _ in taken[:1] if total]
    if shares:
        told["lowest_delegated_share"] = min(shares)
    return PhoneCampaign(
        measurements=tuple(measurements),
        failures=failures,
        coverage=coverage,
        device=device,
        facts={**facts, **told},
        anchor_drift=max(anchor_drift(kept, anchor, repeat.round) for repeat in kept),
        discarded=len(repeats) - len(kept) - len(failures),
    )


def _facts(
    cores: Sequence[Core], options: PhoneOptions, mode: str, before: Conditions, after: Conditions
) -> dict[str, str | int | float]:
    told = {
        "battery_start_celsius": before.battery_celsius,
        "battery_end_celsius": after.battery_celsius,
        "thermal_status_start": before.thermal_status,
        "thermal_status_end": after.thermal_status,
    }
    return {
        "tool": options.tool,
        "program_sha256": program_digest(options.program),
        "delegate": options.repeat.delegate,
        "mask": affinity_mask(cores),
        "cores": describe_cores(cores),
        "governor": ", ".join(sorted({core.governor for core in cores if core.governor})) or "not told",
        "fixed_performance": mode,
        "rounds": options.rounds.needed,
        "runs": options.repeat.runs,
        "warm_up_runs": options.repeat.warm_up_runs,
        **{name: value for name, value in told.items() if value is not None},
    }


def _heat(conditions: Conditions, battery_limit: float) -> str:
    """Why it is too warm to measure; empty where it is not."""
    if conditions.thermal_status is not None and conditions.thermal_status > 0:
        return f"thermal status {conditions.thermal_status}, expected 0"
    if conditions.battery_celsius is not None and conditions.battery_celsius >= battery_limit:
        return f"battery at {conditions.battery_celsius:.1f} °C, expected less than {battery_limit:g} °C"
    return ""


def _disturbance(before: Conditions, after: Conditions, cores: Sequence[Core]) -> str:
    """What happened during a repeat that makes it unusable; empty where nothing did."""
    if (after.thermal_status or 0) > (before.thermal_status or 0):
        return f"thermal status rose to {after.thermal_status}"
    for core in cores:
        limit, earlier = after.limits_khz.get(core.number), before.limits_khz.get(core.number)
        if limit is not None and earlier is not None and limit < earlier:
            return f"core {core.number} was limited to {limit / 1e6:.2f} GHz"
    return ""


@contextlib.contextmanager
def _fixed_performance(transport: Transport, wanted: bool) -> Iterator[str]:
    """Ask for the clock that the phone can sustain, and take it back whatever happens."""
    if not wanted:
        yield "off"
        return
    answer = transport.run(["sh", "-c", f"{_FIXED_MODE} true"], timeout=60)
    if answer.returncode != 0:
        yield "not available"
        return
    by_hand = f"the phone may still be in fixed performance mode: `adb shell {_FIXED_MODE} false`, or start it anew"
    try:
        yield "on"
    except BaseException as error:
        if not _leave_fixed_performance(transport) and isinstance(error, LatencyError):
            error.hint = f"{error.hint}; {by_hand}" if error.hint else by_hand
        raise
    if not _leave_fixed_performance(transport):
        raise TransportError("the phone did not leave fixed performance mode", by_hand)


def _leave_fixed_performance(transport: Transport) -> bool:
    try:
        return transport.run(["sh", "-c", f"{_FIXED_MODE} false"], timeout=60).returncode == 0
    except TransportError:
        return False


def _ignore(what: str, done: int, total: int) -> None:
    return None
