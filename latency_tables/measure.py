"""Measured latency of whole networks with ONNX Runtime, on a machine that others may be using too.

Every run is timed twice, by the wall clock and by the CPU time of the calling thread, in which ONNX Runtime computes
when it is given one thread. A run is clean when the two agree. Networks take turns in rounds, so that drift hits all of
them alike, and an anchor network that runs throughout each round shows it.

A neighbour on the same physical core or memory slows a run without taking its CPU, which no clock of ours can tell; it
makes medians jump by tens of per cent, while the fastest twentieth of many short visits repeats within 1 %. Where most
networks of a campaign are unsteady all are therefore given by their 5th percentile, and say so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latency_tables.errors import BusyMachineError, ProfileError

Clock = Literal["wall", "thread_cpu"]
Statistic = Literal["median", "p5"]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

CLEAN_FACTOR, CLEAN_SLACK_MS = 1.02, 0.005
ANCHOR_EVERY = 20


@dataclass(frozen=True)
class Protocol:
    """How long and how often to measure.

    Attributes:
        rounds: Rounds at least; each visits every network once. While most networks are unsteady there are more, up
            to ``rounds_limit``.
        warm_up_runs: Untimed runs at least, before a network's first visit; warm_up_seconds likewise. A later visit
            takes a tenth of both.
        runs: Timed runs of a visit at least; seconds likewise; at most ``seconds_limit``.
        drift_limit: Relative drift of the anchor within a round that makes the round start again.
        restarts: Number of times that rounds may start again.
    """

    rounds: int = 3
    rounds_limit: int = 3
    warm_up_runs: int = 10
    warm_up_seconds: float = 0.3
    runs: int = 30
    seconds: float = 0.5
    seconds_limit: float = 5.0
    threads: int = 1
    drift_limit: float = 0.05
    restarts: int = 2


QUICK = Protocol(rounds=8, rounds_limit=32, warm_up_seconds=0.05, runs=15, seconds=0.03, seconds_limit=1.0, restarts=1)
"""For many networks of a few milliseconds: short visits, and more of them, so that a disturbance hits few of them."""
ONE = Protocol(rounds=40, rounds_limit=120, runs=15, seconds=0.05)
"""For a single network: as many short visits, spread over seconds, as the networks of a table get."""


@dataclass(frozen=True)
class Visit:
    """The timed runs of one network in one round, in milliseconds."""

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """Robust statistics of one network's latency.

    Attributes:
        ms: The measured latency: the median of the rounds' medians, or the 5th percentile of all runs.
        statistic: Which of the two.
        round_spread: Largest minus smallest round median, relative to ``ms``.
        clock: ``wall`` over the clean runs, or ``thread_cpu`` over all where fewer than half of them are clean.
        clean_share: Share of runs that nobody disturbed.
        steady: Whether runs spread by at most 10 % (interquartile range) and rounds by at most 5 %.
    """

    name: str
    ms: float
    statistic: Statistic
    iqr_ms: float
    p5_ms: float
    p95_ms: float
    min_ms: float
    runs: int
    rounds: int
    round_spread: float
    clock: Clock
    clean_share: float
    steady: bool


@dataclass(frozen=True)
class Campaign:
    """The measurements of several networks taken together.

    Attributes:
        anchor_drift: Largest relative drift of the anchor within an accepted round.
        restarted: Number of rounds that were started again.
    """

    measurements: tuple[Measurement, ...]
    anchor_drift: float
    restarted: int


def make_session(
    path: Path, threads: int = 1, profile_prefix: Path | None = None, optimised: Path | None = None
) -> Any:
    """An ONNX Runtime session on the CPU: sequential, all optimisations, no spinning.

    Args:
        path: The ONNX file.
        threads: Threads within an operator.
        profile_prefix: Where given, profiling is on and its files start with this path.
        optimised: Where given, the optimised graph is written to this path.

    Raises:
        ProfileError: The file cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base of their own
        raise ProfileError(f"network `{path}`: ONNX Runtime cannot load it: {error}") from error


def random_inputs(session: Any) -> Mapping[str, Any]:
    """Normal random inputs of the session's fixed shapes.

    Raises:
        ProfileError: An input has a free dimension or is not fp32.
    """
    generator = np.random.default_rng(0)
    inputs = {}
    for value in session.get_inputs():
        if value.type != "tensor(float)" or not all(isinstance(side, int) for side in value.shape):
            raise ProfileError(f"input `{value.name}`: found {value.type} {value.shape}, expected fixed float sizes")
        inputs[value.name] = generator.standard_normal(value.shape).astype(np.float32)
    return inputs


def measure_network(
    path: Path, protocol: Protocol = ONE, progress: Progress | None = None, statistic: Statistic | None = None
) -> Measurement:
    """The latency of one network, for example of a search's winner.

    Args:
        path: Its ONNX file.
        protocol: How long and how often to measure.
        progress: Told of every visit.
        statistic: That of the table it is compared with; None chooses by how steady the machine is.

    Raises:
        BusyMachineError: The machine is too busy for a number.
        ProfileError: ONNX Runtime cannot run the file.
    """
    return measure_networks([path], protocol, progress, statistic).measurements[0]


def measure_networks(
    paths: Sequence[Path],
    protocol: Protocol = Protocol(),
    progress: Progress | None = None,
    statistic: Statistic | None = None,
) -> Campaign:
    """Measure networks in interleaved rounds; the first one is the anchor.

    Args:
        paths: Their ONNX files.
        protocol: How long and how often to measure.
        progress: Told of every visit.
        statistic: What to give; None gives medians on a steady machine and 5th percentiles otherwise.

    Raises:
        BusyMachineError: With several threads, fewer than half of a network's runs were clean.
        ProfileError: ONNX Runtime cannot run one of the files.
    """
    runners = [_Runner(path, protocol) for path in paths]
    visits: list[list[Visit]] = [[] for _ in runners]
    names = [path.stem for path in paths]
    worst_drift, restarted, done = 0.0, 0, 0
    while done < protocol.rounds or (
        done < protocol.rounds_limit and not mostly_steady(list(map(summarise, names, visits)))
    ):
        round_visits, drift = _round(runners, protocol, progress, done)
        if drift > protocol.drift_limit and restarted < protocol.restarts:
            restarted += 1
            continue
        worst_drift = max(worst_drift, drift)
        for collected, visit in zip(visits, round_visits, strict=True):
            collected.append(visit)
        done += 1
    return Campaign(summarise_all(names, visits, protocol.threads, statistic), worst_drift, restarted)


def summarise_all(
    names: Sequence[str], visits: Sequence[Sequence[Visit]], threads: int = 1, statistic: Statistic | None = None
) -> tuple[Measurement, ...]:
    """The statistics of a campaign: medians, or 5th percentiles where fewer than half of the networks are steady."""
    named = list(zip(names, visits, strict=True))
    measurements = tuple(summarise(name, collected, threads) for name, collected in named)
    if statistic == "median" or (statistic is None and mostly_steady(measurements)):
        return measurements
    return tuple(summarise(name, collected, threads, "p5") for name, collected in named)


def mostly_steady(measurements: Sequence[Measurement]) -> bool:
    """Whether at least half of the networks of a campaign are steady."""
    return 2 * sum(measurement.steady for measurement in measurements) >= len(measurements)


def is_clean(wall_ms: float, cpu_ms: float) -> bool:
    """Whether a run was undisturbed: its wall time is its CPU time, but for the clocks' own error."""
    return wall_ms <= CLEAN_FACTOR * cpu_ms + CLEAN_SLACK_MS


def summarise(name: str, visits: Sequence[Visit], threads: int = 1, statistic: Statistic = "median") -> Measurement:
    """The statistics of a network's visits, one per round.

    Raises:
        BusyMachineError: With several threads, fewer than half of the runs were clean.
    """
    flags = [[is_clean(*times) for times in zip(visit.wall_ms, visit.cpu_ms, strict=True)] for visit in visits]
    share = statistics.fmean(flag for row in flags for flag in row)
    clock: Clock = "wall" if share >= 0.5 else "thread_cpu"
    if threads > 1 and clock != "wall":
        raise BusyMachineError(
            f"network `{name}`: {share:.0%} of runs were undisturbed, expected at least half with {threads} threads",
            "stop other programs, or measure with one thread, whose CPU time can be told apart",
        )
    rounds = [_chosen(visit, row, clock) for visit, row in zip(visits, flags, strict=True)]
    medians = [statistics.median(times) for times in rounds if times]
    pooled = np.array([ms for times in rounds for ms in times])
    low, quarter, three_quarters, high = np.percentile(pooled, [5, 25, 75, 95])
    median = statistics.median(medians)
    iqr, spread = float(three_quarters - quarter), (max(medians) - min(medians)) / median
    return Measurement(
        name=name,
        ms=median if statistic == "median" else float(low),
        statistic=statistic,
        iqr_ms=iqr,
        p5_ms=float(low),
        p95_ms=float(high),
        min_ms=float(pooled.min()),
        runs=len(pooled),
        rounds=len(medians),
        round_spread=spread,
        clock=clock,
        clean_share=share,
        steady=iqr <= 0.1 * median and spread <= 0.05,
    )


class _Runner:
    def __init__(self, path: Path, protocol: Protocol) -> None:
        self.session = make_session(path, protocol.threads)
        self.inputs = random_inputs(self.session)
        self.visited = False

    def visit(self, protocol: Protocol) -> Visit:
        warm = replace(
            protocol,
            runs=protocol.warm_up_runs if not self.visited else max(1, protocol.warm_up_runs // 10),
            seconds=protocol.warm_up_seconds if not self.visited else protocol.warm_up_seconds / 10,
        )
        self.visited = True
        self._timed(warm)
        return self._timed(protocol)

    def _timed(self, protocol: Protocol) -> Visit:
        run, inputs = self.session.run, self.inputs
        wall, cpu = [], []
        start = time.perf_counter()
        while True:
            wall_before, cpu_before = time.perf_counter_ns(), time.thread_time_ns()
            run(None, inputs)
            cpu_after, wall_after = time.thread_time_ns(), time.perf_counter_ns()
            wall.append((wall_after - wall_before) * 1e-6)
            cpu.append((cpu_after - cpu_before) * 1e-6)
            elapsed = time.perf_counter() - start
            if elapsed > protocol.seconds_limit or (len(wall) >= protocol.runs and elapsed >= protocol.seconds):
                return Visit(tuple(wall), tuple(cpu))


def _round(
    runners: Sequence[_Runner], protocol: Protocol, progress: Progress | None, number: int
) -> tuple[list[Visit], float]:
    visits, anchors = [], []
    for position, runner in enumerate(runners):
        visits.append(runner.visit(protocol))
        if position == 0:
            anchors.append(visits[0])
        elif position % ANCHOR_EVERY == 0 or position == len(runners) - 1:
            anchors.append(runners[0].visit(protocol))
        if progress is not None:
            progress("measure", number * len(runners) + position + 1, max(protocol.rounds, number + 1) * len(runners))
    # By CPU time: what other programs take from the wall clock is not drift of the machine.
    medians = [statistics.median(visit.cpu_ms) for visit in anchors]
    return visits, max(medians) / min(medians) - 1


def _chosen(visit: Visit, clean: Sequence[bool], clock: Clock) -> list[float]:
    if clock == "thread_cpu":
        return list(visit.cpu_ms)
    return [ms for ms, flag in zip(visit.wall_ms, clean, strict=True) if flag]
