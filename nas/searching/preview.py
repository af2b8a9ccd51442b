"""What a search would work with, before anything is trained or evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.objectives.bounds import Bounds, Limit
from nas.records.network import NamedRecord, latency_name
from nas.runs.settings import Given, verb
from nas.searching.settings import Question
from search_spaces import SearchSpace

SAMPLE = 20_000


@dataclass(frozen=True)
class Preview:
    """What a search would work with.

    Attributes:
        encodings: Size of the space: an upper bound on its number of architectures.
        members: The fastest network found, the smallest, the middle and the largest.
        share_within: Share of random networks that satisfy the limit; 1 without one.
        can_be_met: Whether any network that was found satisfies the limit.
        source: What the predictions rest on, in one line.
    """

    space: str
    target: str
    limit_ms: float | None
    encodings: int
    members: tuple[NamedRecord, ...]
    share_within: float
    can_be_met: bool
    source: str


@verb(Question)
def preview(given: Given) -> Preview:
    """Costs of the space's ends and middle, and whether the limit can be met; nothing is written.

    Returns:
        What a search would work with.

    Raises:
        UnknownNameError: There is no such space or target.
        TableMissingError: The target has no latency table yet.
    """
    from nas.latency.device import load_device
    from search_spaces import get_space

    question = Question(**given)
    found = get_space(question.space)
    limits = [] if question.limit_ms is None else [Limit(latency_name(question.target), question.limit_ms)]
    return preview_bounds(Bounds(found, [load_device(found, question.target)], limits))


def preview_bounds(bounds: Bounds) -> Preview:
    """The preview of a search within ``bounds`` on the latency of one device."""
    space: SearchSpace = bounds.space
    fastest = bounds.nearest()
    named = {
        "fastest": space.decode(fastest)[0],
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
        encodings=space.encodings,
        members=tuple(
            NamedRecord(name=name, architecture=architecture, costs=costs, latency=latency)
            for (name, architecture), costs, latency in known
        ),
        share_within=float((bounds.excess(bounds.predict(sample)) <= 0).mean()),
        can_be_met=not bounds.reasons(bounds.predict(fastest))[0],
        source=bounds.devices[0].source,
    )
