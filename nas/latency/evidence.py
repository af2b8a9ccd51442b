"""What to say, and to do, where a table has no evidence for a network: what it was made from, and what to measure."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import numpy as np

from latency_tables.errors import NoEvidenceError, TableMissingError
from latency_tables.evidence import Evidence, group_of
from latency_tables.predictor import LatencyPredictor
from latency_tables.table import LatencyTable
from latency_tables.targets import LOCAL, load_target, staleness
from nas.errors import NasError, UsageError
from nas.latency.request import BuildRequest, extended, networks_of
from nas.latency.sample import BROAD, LARGEST_BROAD_MACS, SMALLEST_BROAD_MACS
from nas.networks.named import NamedNetwork
from nas.objectives.units import format_count
from search_spaces import SearchSpace, get_space, population_cost, space_names

SAMPLE = 1000
MOST_OUTSIDE = 0.05
"""Share of a space's networks without evidence up to which a table is taken for it."""
SPREAD = 20.0
"""How many times larger than its smallest network a space's largest one is taken to be, for an estimate of time."""
START_SECONDS, WRITE_SECONDS, RUNS, MACS_PER_SECOND = 15.0, 2.5, 150, 2.5e10
"""What a build takes: to begin, to write a network, runs of each network, and how fast a core computes."""


def known_networks(table: LatencyTable) -> str:
    """What a table was made from, for people."""
    evidence = Evidence.of(table)
    span = f"{format_count(evidence.fewest_macs)} to {format_count(evidence.most_macs)} MACs"
    groups = ", ".join(f"{count} of `{group}`" for group, count in evidence.groups.items())
    return f"networks of {span} ({groups})" if groups else f"{len(table.validation.rows)} published networks of {span}"


def require_evidence(predictor: LatencyPredictor, space: SearchSpace) -> None:
    """Make sure that a measured table can tell what networks of a space take; a calibrated one has ranges for all.

    Raises:
        NoEvidenceError: It cannot.
    """
    table, group = predictor.table, group_of(space)
    if table.provenance.kind != "measured" or group in predictor.evidence.groups:
        return
    ends = space.encode([space.smallest, space.largest])
    sample = np.concatenate([ends, space.sample(SAMPLE, np.random.default_rng(0))])
    share = float(predictor.population(space, sample).extrapolated.mean())
    if share > MOST_OUTSIDE:
        raise NoEvidenceError(
            f"target `{table.name}` was made from {known_networks(table)}: it has no evidence for {share:.0%} of the"
            f" networks of `{group}`",
            remedy(table, [group], int(population_cost(space, ends).macs.max())),
        )


def require_buildable(target: str) -> None:
    """Make sure that `--build` can give a target evidence.

    Raises:
        UsageError: It is not this machine.
    """
    if not _is_local(target):
        raise UsageError(
            f"`--build` measures this machine, which is target `{LOCAL}`; found `{target}`",
            "nas latency build --target ssh:user@host or adb:SERIAL measures another device",
        )


def _is_local(target: str) -> bool:
    """Whether a target is this machine, in whatever precision."""
    return target.partition("@")[0] == LOCAL


def missing_groups(table: LatencyTable | None, networks: Iterable[NamedNetwork]) -> list[str]:
    """The groups to measure so that a table of this machine has evidence for networks: each named once.

    Models get networks of many kinds, and networks like themselves where those did not help.

    Args:
        table: The table; None where there is none yet.
        networks: What is to be predicted.
    """
    known = {} if table is None else Evidence.of(table).groups
    predictor = None if table is None else LatencyPredictor(table)
    missing: dict[str, None] = {}
    for network in networks:
        if predictor is not None and not predictor.graph(network.graph(), network.group).is_declined:
            continue
        is_model = not network.group or ":" in network.group
        wanted = [BROAD, network.group] if is_model else [network.group]
        missing |= dict.fromkeys([name for name in wanted if name not in known and _can_be_sampled(name)][:1])
    return list(missing)


def _can_be_sampled(group: str) -> bool:
    from nas.latency.samples import is_group

    if ":" not in group:
        return is_group(group)
    try:
        get_space(group)
    except NasError:
        return False  # a model that cannot be made elastic
    return True


def remedy(table: LatencyTable, groups: Iterable[str], most_macs: int = LARGEST_BROAD_MACS) -> str:
    """What to type so that a measured table gets evidence.

    Args:
        table: The table.
        groups: Groups to measure.
        most_macs: Multiply-accumulates of their largest network.
    """
    added = list(dict.fromkeys(groups))
    if not added:
        return "measure the network itself: nas latency check NETWORK"
    if _is_local(table.name):
        request = extended(table, added)
        counts = " and ".join(f"{networks_of(name, request.networks)} networks of `{name}`" for name in added)
        again = ", and once more those that it knows" if len(request.groups) > len(added) else ""
        shown = math.ceil(build_seconds(request, most_macs, _largest_of(table)) / 60)
        return f"`--build` measures {counts} first{again}: about {shown} min on a quiet machine"
    spaces = ",".join([*Evidence.of(table).groups, *added])
    device = table.provenance.transport or LOCAL
    words = ["nas", "latency", "build", "--target", device, "--name", table.name, "--spaces", spaces]
    return f"measure some: {shlex.join(words)}"


def expected_seconds(targets: Iterable[str], space: SearchSpace) -> float:
    """About how long a search of a space will measure this machine before it begins; 0 where it need not."""
    group, seconds = group_of(space), 0.0
    for target in filter(_is_local, targets):
        table = None
        with contextlib.suppress(TableMissingError):
            table = load_target(target)
        if table is None or group not in Evidence.of(table).groups or staleness(table):
            macs = population_cost(space, space.encode([space.largest])).macs[0]
            known = {} if table is None else _largest_of(table)
            seconds += build_seconds(extended(table, [group]), int(macs), known)
    return seconds


def expected_build(request: BuildRequest) -> str:
    """What a build of this machine's table is going to do, for people."""
    known = {}
    for group in set(request.groups) & set(space_names()):
        space = get_space(group)
        known[group] = int(population_cost(space, space.encode([space.largest])).macs[0])
    count = sum(networks_of(group, request.networks) for group in request.groups)
    whole, writing = build_seconds(request, LARGEST_BROAD_MACS, known), count * WRITE_SECONDS
    minutes, of_them = (math.ceil(seconds / 60) for seconds in (whole, writing))
    return f"{count} networks: about {minutes} min on a quiet machine, {of_them} of them to write files"


def _largest_of(table: LatencyTable) -> dict[str, int]:
    """Multiply-accumulates of the largest network of each group of a table."""
    rows = sorted(table.validation.rows, key=lambda row: row.macs)
    return {row.network.partition("/")[0]: int(row.macs) for row in rows}


def build_seconds(request: BuildRequest, most_macs: int, known: Mapping[str, int] = MappingProxyType({})) -> float:
    """About how long this machine takes to measure what is asked for.

    Args:
        request: Networks to measure.
        most_macs: Multiply-accumulates of the largest networks of other groups than those known.
        known: Groups with the multiply-accumulates of their largest networks.
    """
    seconds = START_SECONDS
    for group in request.groups:
        most, spread = known.get(group, most_macs), SPREAD
        if group == BROAD:
            most, spread = LARGEST_BROAD_MACS, LARGEST_BROAD_MACS / SMALLEST_BROAD_MACS
        mean_macs = most * (1 - 1 / spread) / math.log(spread)  # of sizes spread evenly on a logarithmic scale
        seconds += networks_of(group, request.networks) * (WRITE_SECONDS + RUNS * mean_macs / MACS_PER_SECOND)
    return seconds
