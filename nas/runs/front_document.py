"""What ``front.json`` holds, from the trials of a search; `nas.runs.front` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.objectives.bounds import Limit
from nas.objectives.objective import Objective, device_fronts
from nas.records.trial import Trial
from nas.runs.front import FRONT_SCHEMA, FrontMember


@dataclass(frozen=True)
class FrontHeader:
    """What ``front.json`` says beside the networks.

    Attributes:
        run: The run folder.
        space: Name of the search space.
        seed: Seed of the search.
        target: The device that latencies are predicted for.
        limit_ms: Limit on the latency there, in milliseconds; None without one.
        objective: Name of the leading objective.
        sources: What the predictions rest on, a line per device.
        classes: Number of classes that the networks tell apart; None where nobody knows.
    """

    run: Path
    space: str
    seed: int
    target: str
    limit_ms: float | None
    objective: str
    sources: Sequence[str]
    classes: int | None = None


def front_document(
    header: FrontHeader, front: Sequence[Trial], evaluated: int, settled: Trial | None = None
) -> dict[str, Any]:
    """What ``front.json`` holds: the front of a search and where its numbers come from, ready for JSON.

    Args:
        header: What it says beside the networks.
        front: The trials on the front.
        evaluated: Number of networks that were evaluated.
        settled: The network that the controller itself ended with; None where it only proposes.
    """
    document = {
        "schema": FRONT_SCHEMA,
        "space": header.space,
        **({} if header.classes is None else {"classes": header.classes}),
        "run": str(header.run),
        "seed": header.seed,
        "target": header.target,
        "limit_ms": header.limit_ms,
        "objectives": {"maximise": header.objective, "minimise": "latency"},
        "evaluated": evaluated,
        "front": [FrontMember.of(trial).to_entry() for trial in front],
        "sources": list(header.sources),
    }
    return document if settled is None else {**document, "settled": FrontMember.of(settled).to_entry()}


def with_many(
    document: Mapping[str, Any], objectives: Sequence[Objective], limits: Sequence[Limit], trials: Sequence[Trial]
) -> dict[str, Any]:
    """The document with what only searches have that are not for quality and the latency of one device.

    Added are all ``objectives`` with their goals, all ``limits``, and in ``fronts`` the front of each device.

    Args:
        document: What `front_document` gave.
        objectives: All objectives of the search.
        limits: All limits of the search.
        trials: All trials of the search, or at least those on a device's front; those of the document's front stand in
            the fronts as they stand there.
    """
    known = {entry["number"]: entry for entry in document["front"]}
    fronts = {
        target: [known.get(trial.number) or FrontMember.of(trial).to_entry() for trial in front]
        for target, front in device_fronts(trials, objectives).items()
    }
    evaluated = next((objective.name for objective in objectives if objective.is_evaluated), None)
    more = [objective.name for objective in objectives if objective.is_maximised and not objective.is_evaluated]
    less = [objective.name for objective in objectives if not objective.is_maximised]
    return {
        **document,
        "objectives": {"maximise": evaluated, "minimise": less, **({"also_maximise": more} if more else {})},
        "limits": {limit.name: {"lower": limit.lower or None, "upper": limit.upper} for limit in limits},
        "fronts": fronts,
    }
