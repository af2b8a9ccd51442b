"""What the timed runs of networks say: robust statistics, steady or not, and which rounds count. Nothing here measures.

Every run is timed twice, by the wall clock and by the CPU time of the calling thread, in which runtimes compute when
they are given one thread. A run is clean when the two agree. A repeat is a block of timed runs of one network; networks
take turns in rounds of one repeat each, so that drift hits all of them alike, and an anchor network that runs
throughout each round shows it.

A neighbour on the same physical core or memory slows a run without taking its CPU, which no clock of ours can tell; it
makes medians jump by tens of per cent, while the fastest twentieth of many short repeats stays within 1 %. Where most
networks of a session are unsteady all are therefore given by their 5th percentile, and say so. Where other processors
were busy and our own was shared too during nearly all repeats, not even that helps, as
`MeasurementSession.undisturbed_share` tells.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from latency_tables.errors import BusyMachineError

Clock = Literal["wall", "thread_cpu", "device"]
Statistic = Literal["median", "p5"]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

CLEAN_FACTOR, CLEAN_SLACK_MS = 1.02, 0.005
ANCHOR_EVERY = 20
QUIET_OTHERS = 0.5
"""Busy share of the other processors up to which a repeat is undisturbed."""


@dataclass(frozen=True)
class Protocol:
    """How long and how often to measure.

    Attributes:
        rounds: Least number of rounds, in each of which every network has one repeat.
        rounds_limit: Largest number of rounds, which there are while most networks are unsteady.
        warm_up_runs: Least number of untimed runs before a network's first repeat, ten times that of a later one.
        warm_up_seconds: Least time of those runs.
        runs: Least number of timed runs in a repeat.
        seconds: Least time of those runs.
        seconds_limit: Time after which they end, however many there were.
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


STANDARD = Protocol()
QUICK = Protocol(rounds=8, rounds_limit=24, warm_up_seconds=0.05, runs=15, seconds=0.03, seconds_limit=1.0, restarts=1)
"""For many networks of a few milliseconds: short repeats, and more of them, so that a disturbance hits few of them."""
ONE = Protocol(rounds=40, rounds_limit=120, runs=15, seconds=0.05)
"""For a single network: as many short repeats, spread over seconds, as the networks of a table get."""


@dataclass(frozen=True)
class Repeat:
    """The timed runs of one network in one round, in milliseconds.

    Attributes:
        others_busy: Mean share of the repeat that the processors besides ours were busy; None where nobody knows.
        throttled: Why the accelerator slowed itself down; empty where it did not.
    """

    wall_ms: tuple[float, ...]
    cpu_ms: tuple[float, ...]
    others_busy: float | None = None
    throttled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """Robust statistics of one network's latency.

    Attributes:
        ms: The measured latency: the median of the rounds' medians, or the 5th percentile of all runs.
        statistic: Which of the two.
        round_spread: Largest minus smallest round median, relative to ``ms``.
        clock: ``wall`` over the clean runs, ``thread_cpu`` over all where fewer than half of them are clean, or
            ``device`` where a tool on the device took the times.
        clean_share: Share of runs that nobody disturbed.
        steady: Whether runs and rounds spread little, see `is_steady`.
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
class MeasurementSession:
    """The measurements of several networks taken together.

    Attributes:
        anchor_drift: Largest relative drift of the anchor within an accepted round.
        restarted: Number of rounds that were started again.
        quiet_share: Share of repeats during which the other processors were mostly idle; None where nobody knows.
        undisturbed_share: Share of repeats during which they were, or most runs had our processor to themselves.
    """

    measurements: tuple[Measurement, ...]
    anchor_drift: float
    restarted: int
    quiet_share: float | None = None
    undisturbed_share: float | None = None


def round_plan(networks: int) -> list[int]:
    """Which network each repeat of a round is of: all of them once, and the first one, the anchor, in between."""
    plan = []
    for position in range(networks):
        plan.append(position)
        if position and (position % ANCHOR_EVERY == 0 or position == networks - 1):
            plan.append(0)
    return plan


@dataclass(frozen=True)
class Round:
    """The repeats of one round, in the order of its `round_plan`; those that have not happened are missing."""

    repeats: dict[int, Repeat]

    def is_complete(self, plan: Sequence[int]) -> bool:
        """Whether every repeat of the plan has happened."""
        return len(self.repeats) == len(plan)

    @property
    def throttled(self) -> set[str]:
        """Why the accelerator slowed itself down in any of the repeats."""
        return {reason for repeat in self.repeats.values() for reason in repeat.throttled}

    def drift(self, plan: Sequence[int]) -> float:
        """Relative drift of the anchor."""
        # By CPU time: what other programs take from the wall clock is not drift of the machine.
        medians = [statistics.median(self.repeats[step].cpu_ms) for step, network in enumerate(plan) if network == 0]
        return max(medians) / min(medians) - 1

    def of_networks(self, plan: Sequence[int]) -> list[Repeat]:
        """One repeat per network."""
        first = {network: step for step, network in reversed(list(enumerate(plan)))}
        return [self.repeats[first[network]] for network in range(len(first))]


@dataclass(frozen=True)
class Accepted:
    """What of a session's rounds counts.

    Attributes:
        repeats: Per network, one repeat per accepted round.
        drift: Largest anchor drift of an accepted round.
        restarted: Rounds thrown away because the anchor drifted or the accelerator throttled.
    """

    repeats: list[list[Repeat]]
    drift: float
    restarted: int

    @property
    def rounds(self) -> int:
        """Number of accepted rounds."""
        return len(self.repeats[0])


def accept_rounds(rounds: Sequence[Round], plan: Sequence[int], protocol: Protocol) -> Accepted:
    """Decide which rounds count: complete ones whose anchor held, and drifting ones after the last restart.

    None counts in which the accelerator throttled.
    """
    networks = len(set(plan))
    repeats: list[list[Repeat]] = [[] for _ in range(networks)]
    worst, restarted, throttled = 0.0, 0, 0
    for one in rounds:
        if not one.is_complete(plan):
            continue
        drift = one.drift(plan)
        if one.throttled:
            throttled += 1
            continue
        if drift > protocol.drift_limit and restarted < protocol.restarts:
            restarted += 1
            continue
        worst = max(worst, drift)
        for collected, repeat in zip(repeats, one.of_networks(plan), strict=True):
            collected.append(repeat)
    return Accepted(repeats, worst, restarted + throttled)


def require_unthrottled(rounds: Collection[Round], protocol: Protocol) -> None:
    """Make sure that further rounds are not in vain: a device that throttles again and again needs its user.

    Raises:
        BusyMachineError: The accelerator throttled in as many rounds as there should be.
    """
    slowed = [one.throttled for one in rounds if one.throttled]
    if len(slowed) >= protocol.rounds:
        reasons = ", ".join(sorted(set.union(*slowed)))
        raise BusyMachineError(
            f"the accelerator throttled in {len(slowed)} of {len(rounds)} rounds ({reasons}), expected none",
            "let it cool, end what else runs on it, or lock a clock that it holds (`nvidia-smi --lock-gpu-clocks=MHZ`);"
            " other finished rounds are kept",
        )


def rounds_wanted(names: Sequence[str], accepted: Accepted, protocol: Protocol, least_undisturbed: float = 0.0) -> int:
    """How many more rounds there should be: up to the least number, then as many again while most are unsteady.

    Args:
        names: Names of the networks.
        accepted: What has been measured.
        protocol: Least and largest number of rounds.
        least_undisturbed: Share of undisturbed repeats below which more rounds would be in vain.
    """
    if accepted.rounds < protocol.rounds:
        return protocol.rounds - accepted.rounds
    share = undisturbed_share(accepted.repeats)
    if share is not None and share < least_undisturbed:
        return 0
    left = protocol.rounds_limit - accepted.rounds
    if left <= 0 or mostly_steady([summarise(*each) for each in zip(names, accepted.repeats, strict=True)]):
        return 0
    return min(left, protocol.rounds)


def quiet_share(repeats: Sequence[Sequence[Repeat]]) -> float | None:
    """Share of repeats during which the other processors were mostly idle; None where it is not known of any."""
    known = [repeat.others_busy for each in repeats for repeat in each if repeat.others_busy is not None]
    return sum(busy <= QUIET_OTHERS for busy in known) / len(known) if known else None


def undisturbed_share(repeats: Sequence[Sequence[Repeat]]) -> float | None:
    """Share of repeats that one can measure by: the other processors mostly idle, or most runs clean; None if unknown.

    A program on another processor alone moved the values of 72 networks by 1 % (median; at most 3.5 %).
    """
    known = [(repeat.others_busy, repeat) for each in repeats for repeat in each if repeat.others_busy is not None]
    if not known:
        return None
    return sum(busy <= QUIET_OTHERS or _is_mostly_clean(repeat) for busy, repeat in known) / len(known)


def _is_mostly_clean(repeat: Repeat) -> bool:
    runs = list(zip(repeat.wall_ms, repeat.cpu_ms, strict=True))
    return 2 * sum(is_clean(*times) for times in runs) >= len(runs)


def summarise_all(
    names: Sequence[str], repeats: Sequence[Sequence[Repeat]], threads: int = 1, statistic: Statistic | None = None
) -> tuple[Measurement, ...]:
    """The statistics of a session: medians, or 5th percentiles where fewer than half of the networks are steady."""
    named = list(zip(names, repeats, strict=True))
    measurements = tuple(summarise(name, collected, threads) for name, collected in named)
    if statistic == "median" or (statistic is None and mostly_steady(measurements)):
        return measurements
    return tuple(summarise(name, collected, threads, "p5") for name, collected in named)


def mostly_steady(measurements: Sequence[Measurement]) -> bool:
    """Whether at least half of the networks of a session are steady."""
    return 2 * sum(measurement.steady for measurement in measurements) >= len(measurements)


def is_steady(iqr_ms: float, round_spread: float, median_ms: float) -> bool:
    """Whether runs spread by at most 10 % (interquartile range) and rounds by at most 5 %."""
    return iqr_ms <= 0.1 * median_ms and round_spread <= 0.05


def is_clean(wall_ms: float, cpu_ms: float) -> bool:
    """Whether a run was undisturbed: its wall time is its CPU time, but for the clocks' own error."""
    return wall_ms <= CLEAN_FACTOR * cpu_ms + CLEAN_SLACK_MS


def summarise(name: str, repeats: Sequence[Repeat], threads: int = 1, statistic: Statistic = "median") -> Measurement:
    """The statistics of a network's repeats, one per round.

    Raises:
        BusyMachineError: With several threads, fewer than half of the runs were clean.
    """
    flags = [[is_clean(*times) for times in zip(repeat.wall_ms, repeat.cpu_ms, strict=True)] for repeat in repeats]
    share = statistics.fmean(flag for row in flags for flag in row)
    clock: Clock = "wall" if share >= 0.5 else "thread_cpu"
    if threads > 1 and clock != "wall":
        raise BusyMachineError(
            f"network `{name}`: {share:.0%} of runs were undisturbed, expected at least half with {threads} threads",
            "stop other programs, or measure with one thread, whose CPU time can be told apart",
        )
    rounds = [_chosen(repeat, row, clock) for repeat, row in zip(repeats, flags, strict=True)]
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
        steady=is_steady(iqr, spread, median),
    )


def _chosen(repeat: Repeat, clean: Sequence[bool], clock: Clock) -> list[float]:
    if clock == "thread_cpu":
        return list(repeat.cpu_ms)
    return [ms for ms, flag in zip(repeat.wall_ms, clean, strict=True) if flag]
