"""Visits of networks on a phone: their records, which of them count, and what is still to visit.

All of it follows from the records alone, so that a campaign that was killed goes on from those it had written.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from latency_tables.measure import Measurement

CLOCK_TOLERANCE = 0.05
"""Relative distance from the clock of most visits beyond which a visit does not count."""
_INTERQUARTILE = 1.349
"""Interquartile range of a normal distribution in standard deviations; programs give no quartiles."""

Coverage = tuple[str, int, int, int]
"""A delegate, the nodes it took over, of how many, and in how many pieces."""


@dataclass(frozen=True)
class PhoneVisit:
    """The record of one visit.

    Attributes:
        number: Of the visit in the campaign.
        ms: The program's median, or its mean where it gives no median (``median`` says which).
        spread_ms: Standard deviation of the runs.
        clock_khz: Highest clock of the cores just after the visit; None where the device does not tell.
        disturbed: Why the visit cannot be used; empty where it can.
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
    def from_record(cls, record: Mapping[str, Any]) -> PhoneVisit:
        """The visit that a record stands for; what else a journal keeps in the record is passed over."""
        told = {each.name: record[each.name] for each in fields(cls)}
        return cls(**{**told, "coverage": tuple((str(name), *counts) for name, *counts in record["coverage"])})


@dataclass(frozen=True)
class Rounds:
    """How many rounds a campaign takes.

    Attributes:
        needed: Rounds that a network needs; ``limit`` is the number of those after which it is given up.
        drift_limit: Relative drift of the anchor within a round that makes the round unusable.
    """

    needed: int = 3
    limit: int = 9
    drift_limit: float = 0.05


def usable(visits: Sequence[PhoneVisit], anchor: str, rounds: Rounds) -> list[PhoneVisit]:
    """The visits that count: undisturbed, at the clock of most visits, in rounds whose anchor kept still."""
    kept = [visit for visit in visits if not visit.disturbed and not visit.failed]
    clocks = [visit.clock_khz for visit in kept if visit.clock_khz is not None]
    if clocks:
        usual = statistics.median(clocks)
        kept = [v for v in kept if v.clock_khz is None or abs(v.clock_khz / usual - 1) <= CLOCK_TOLERANCE]
    drifts = {number: anchor_drift(kept, anchor, number) for number in {visit.round for visit in kept}}
    return [visit for visit in kept if drifts[visit.round] <= rounds.drift_limit]


def anchor_drift(visits: Sequence[PhoneVisit], anchor: str, number: int) -> float:
    """The anchor's relative drift within a round."""
    times = [visit.ms for visit in visits if visit.model == anchor and visit.round == number]
    return max(times) / min(times) - 1 if times else 0.0


def plan_round(names: Sequence[str], visits: Sequence[PhoneVisit], number: int, rounds: Rounds) -> list[str]:
    """The networks that are still to be visited in a round, in order; the first of all is the anchor, first and last.

    Args:
        names: All networks.
        visits: Those so far, also of this round where an earlier campaign was killed in it.
        number: Of the round.
        rounds: How many there are to be.
    """
    anchor = names[0]
    failed = {visit.model for visit in visits if visit.failed}
    earlier = usable([visit for visit in visits if visit.round < number], anchor, rounds)
    wanted = [name for name in names if name not in failed and not _settled(name, earlier, rounds)]
    had = [visit.model for visit in visits if visit.round == number]
    if not wanted:
        return []
    if len(names) == 1 or anchor in failed:
        return [name for name in wanted if name not in had]
    inner = [name for name in wanted if name != anchor and name not in had]
    return ([] if anchor in had else [anchor]) + inner + ([anchor] if had.count(anchor) < 2 else [])


def summarise_visits(name: str, visits: Sequence[PhoneVisit]) -> Measurement:
    """The statistics of a network's used visits, over rounds. Quartiles are those of a normal distribution."""
    medians = [statistics.median(v.ms for v in visits if v.round == number) for number in {v.round for v in visits}]
    ms = statistics.median(medians)
    iqr = _INTERQUARTILE * statistics.median(visit.spread_ms for visit in visits)
    spread = (max(medians) - min(medians)) / ms
    return Measurement(
        name=name,
        ms=ms,
        statistic="median",
        iqr_ms=iqr,
        p5_ms=statistics.median(visit.p5_ms for visit in visits),
        p95_ms=statistics.median(visit.p95_ms for visit in visits),
        min_ms=min(visit.min_ms for visit in visits),
        runs=sum(visit.runs for visit in visits),
        rounds=len(medians),
        round_spread=spread,
        clock="device",
        clean_share=1.0,
        steady=iqr <= 0.1 * ms and spread <= 0.05,
    )


def _settled(name: str, visits: Sequence[PhoneVisit], rounds: Rounds) -> bool:
    own = [visit for visit in visits if visit.model == name]
    return len({visit.round for visit in own}) >= rounds.needed and summarise_visits(name, own).steady
