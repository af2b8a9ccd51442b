"""What a search would work with, before anything is trained or evaluated."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nas.objectives.bounds import Bounds
from nas.objectives.objective import parse_names
from nas.records.network import NamedRecord, latency_name
from nas.runs.folder import supernet_checkpoint
from nas.runs.settings import Given, verb
from nas.searching.checks import checked
from nas.searching.resolution import share_of_largest, with_devices, with_precision
from nas.searching.settings import SearchSettings
from nas.training.pretrained import space_of
from search_spaces import SearchSpace

SAMPLE = 20_000
BOUNDING = (
    "space",
    "target",
    "limit_ms",
    "limits",
    "limit_share",
    "macs",
    "params",
    "window",
    "objectives",
    "model",
    "supernet",
)
"""Settings of a search that say what networks may cost."""


@dataclass(frozen=True)
class Preview:
    """What a search would work with.

    Attributes:
        limit_ms: The limit on the latency on ``target``; None for none.
        limits: Upper ends of all limits, by the quantity's name, for example ``latency:pixel6`` or ``peak-memory``.
        encodings: Size of the space: an upper bound on its number of architectures.
        members: The network found that is farthest within the limits (``fastest`` where only the latency on ``target``
            counts, else ``nearest``), the smallest, the middle and the largest.
        share_within: Share of random networks that satisfy all limits; 1 without any.
        can_be_met: Whether any network that was found satisfies all limits.
        reason: Which limit the first member breaks; empty where none.
        source: What the predictions rest on, in one line.
    """

    space: str
    target: str
    limit_ms: float | None
    limits: dict[str, float]
    encodings: int
    members: tuple[NamedRecord, ...]
    share_within: float
    can_be_met: bool
    reason: str
    source: str


@verb(SearchSettings)
def preview(given: Given) -> Preview:
    """Costs of the space's ends and middle, and whether the limits of a search can be met; nothing is written.

    What does not bound the networks is not looked at: images and weights need not be there.

    Returns:
        What a search would work with.

    Raises:
        UnknownNameError: There is no such space, target or quantity.
        UsageError: Limits contradict each other.
        CheckpointError: The supernet cannot be read.
        TableMissingError: The target has no latency table yet.
    """
    from nas.latency.device import load_device
    from search_spaces import get_space

    settings = bounding_settings(given)
    space = get_space(settings.space)
    devices = [load_device(space, target) for target in settings.targets]
    if settings.limit_share is not None:
        settings = replace(settings, limit_ms=share_of_largest(settings, space, devices))
    return preview_bounds(Bounds(space, devices, settings.bounds, settings.known_quantities))


def bounding_settings(given: Given) -> SearchSettings:
    """The settings of a search as far as they say what its networks may cost.

    Raises:
        UsageError: Limits contradict each other.
        CheckpointError: The supernet cannot be read.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if "model" in chosen:
        chosen["space"] = space_of(chosen["model"])
    elif "supernet" in chosen and "space" not in chosen:
        from supernets.checkpoint import read_checkpoint

        chosen["space"] = read_checkpoint(supernet_checkpoint(Path(chosen["supernet"]))).metadata["space"]
    chosen = with_precision(chosen)
    if chosen.get("objectives") is not None:
        chosen["objectives"] = parse_names(chosen["objectives"], chosen.get("target", SearchSettings.target))
    chosen = with_devices(chosen)
    return checked(SearchSettings(**{name: chosen[name] for name in BOUNDING if name in chosen}))


def preview_bounds(bounds: Bounds) -> Preview:
    """The preview of a search within ``bounds``."""
    space: SearchSpace = bounds.space
    limits = {limit.name: limit.upper for limit in bounds.limits}
    nearest = bounds.nearest()
    reason = bounds.reasons(bounds.predict(nearest))[0]
    named = {
        "fastest" if limits.keys() <= {latency_name(bounds.target)} else "nearest": space.decode(nearest)[0],
        "smallest": space.smallest,
        "middle": space.middle,
        "largest": space.largest,
    }
    genotypes = space.encode(list(named.values()))
    predicted = bounds.predict(genotypes)
    known = zip(named.items(), predicted.costs(), predicted.latencies(), strict=True)
    sample = space.sample(SAMPLE, np.random.default_rng(0))
    return Preview(
        space=space.name,
        target=bounds.target,
        limit_ms=bounds.limit_ms,
        limits=limits,
        encodings=space.encodings,
        members=tuple(
            NamedRecord(name=name, architecture=architecture, costs=costs, latency=latency)
            for (name, architecture), costs, latency in known
        ),
        share_within=float((bounds.excess(bounds.predict(sample)) <= 0).mean()),
        can_be_met=not reason,
        reason=reason,
        source=bounds.devices[0].source,
    )
