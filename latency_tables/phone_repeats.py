"""Repeats of networks on a phone: their records, which of them count, and what is still missing.

All of it follows from the records alone, so that a session that was killed goes on from those it had written.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from latency_tables.repeats import Measurement, is_steady

CLOCK_TOLERANCE = 0.05
"""Relative distance from the clock of most repeats beyond which a repeat does not count."""
_INTERQUARTILE = 1.349
"""Interquartile range of a normal distribution in standard deviations; programs give no quartiles."""

Coverage = tuple[str, int, int, int]
"""A delegate, the nodes it took over, of how many, and in how many pieces."""


@dataclass(frozen=True)
class PhoneRepeat:
    """The record of one repeat.

    Attributes:
        number: Number of the repeat in the session.
        ms: The program's median, or its mean where it gives no median (``median`` says which).
        spread_ms: Standard deviation of the runs.
        clock_khz: Highest clock of the cores just after the repeat; None where the device does not tell.
        disturbed: Why the repeat cannot be used; empty where it can.
        failed: Why the network cannot be measured; all else is zero then.
        coverage: What delegates took over.
    """

    model: str
    round: int
    number: int
    ms: float = 0.0
    median: bool = True
    min_ms: float = 0.0
    p5_ms: float = 0.0
    p95_ms: float = 0.0
    spread_ms: float = 0.0
    runs: int = 0
    clock_khz: int | None = None
    disturbed: str = ""
    failed: str = ""
    coverage: tuple[Coverage, ...] = ()

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> PhoneRepeat:
        """The repeat that a record stands for; what else a journal keeps in the record is passed over."""
        told = {each.name: record[each.name] for each in fields(cls)}
        return cls(**{**told, "coverage": tuple((str(name), *counts) for name, *counts in record["coverage"])})


@dataclass(frozen=True)
class Rounds:
    """How many rounds a session takes.

    Attributes:
        needed: Number of rounds that a network needs.
        limit: Number of rounds after which it is given up.
        drift_limit: Relative drift of the anchor within a round that makes the round unusable.
    """

    needed: int = 3
    limit: int = 9
    drift_limit: float = 0.05


def usable(repeats: Sequence[PhoneRepeat], anchor: str, rounds: Rounds) -> list[PhoneRepeat]:
    """The repeats that count: undisturbed, at the clock of most repeats, in rounds whose anchor kept still."""
    kept = [repeat for repeat in repeats if not repeat.disturbed and not repeat.failed]
    clocks = [repeat.clock_khz for repeat in kept if repeat.clock_khz is not None]
    if clocks:
        usual = statistics.median(clocks)
        kept = [v for v in kept if v.clock_khz is None or abs(v.clock_khz / usual - 1) <= CLOCK_TOLERANCE]
    drifts = {number: anchor_drift(kept, anchor, number) for number in {repeat.round for repeat in kept}}
    return [repeat for repeat in kept if drifts[repeat.round] <= rounds.drift_limit]


def anchor_drift(repeats: Sequence[PhoneRepeat], anchor: str, number: int) -> float:
    """The anchor's relative drift within a round."""
    times = [repeat.ms for repeat in repeats if repeat.model == anchor and repeat.round == number]
    return max(times) / min(times) - 1 if times else 0.0


def plan_round(names: Sequence[str], repeats: Sequence[PhoneRepeat], number: int, rounds: Rounds) -> list[str]:
    """The networks that are still to be timed in a round, in order; the first of all is the anchor, first and last.

    Args:
        names: All networks.
        repeats: The repeats so far, also of this round where an earlier session was killed in it.
        number: Number of the round.
        rounds: How many there are to be.
    """
    anchor = names[0]
    failed = {repeat.model for repeat in repeats if repeat.failed}
    earlier = usable([repeat for repeat in repeats if repeat.round < number], anchor, rounds)
    wanted = [name for name in names if name not in failed and not _settled(name, earlier, rounds)]
    had = [repeat.model for repeat in repeats if repeat.round == number]
    if not wanted:
        return []
    if len(names) == 1 or anchor in failed:
        return [name for name in wanted if name not in had]
    inner = [name for name in wanted if name != anchor and name not in had]
    return ([] if anchor in had else [anchor]) + inner + ([anchor] if had.count(anchor) < 2 else [])


def summarise_repeats(name: str, repeats: Sequence[PhoneRepeat]) -> Measurement:
    """The statistics of a network's used repeats, over rounds. Quartiles are those of a normal distribution."""
    medians = [statistics.median(v.ms for v in repeats if v.round == number) for number in {v.round for v in repeats}]
    ms = statistics.median(medians)
    iqr = _INTERQUARTILE * statistics.median(repeat.spread_ms for repeat in repeats)
    spread = (max(medians) - min(medians)) / ms
    return Measurement(
        name=name,
        ms=ms,
        statistic="median",
        iqr_ms=iqr,
        p5_ms=statistics.median(repeat.p5_ms for repeat in repeats),
        p95_ms=statistics.median(repeat.p95_ms for repeat in repeats),
        min_ms=min(repeat.min_ms for repeat in repeats),
        runs=sum(repeat.runs for repeat in repeats),
        rounds=len(medians),
        round_spread=spread,
        clock="device",
        clean_share=1.0,
        steady=is_steady(iqr, spread, ms),
    )


def _settled(name: str, repeats: Sequence[PhoneRepeat], rounds: Rounds) -> bool:
    own = [repeat for repeat in repeats if repeat.model == name]
    return len({repeat.round for repeat in own}) >= rounds.needed and summarise_repeats(name, own).steady
