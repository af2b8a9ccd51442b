"""What a search found: the front, and what can be done with its members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from latency_tables.predictor import Latency
from nas.errors import NasError, RunError, UsageError
from nas.objectives.bounds import Limit
from nas.objectives.objective import SIZES, Objective, device_fronts, latency_of, lead_of, trade_off
from nas.objectives.pareto import knee
from nas.records.files import read_json
from nas.records.trial import Trial
from search_spaces import Architecture, SearchSpaceError

FRONT_SCHEMA = 1
PICKS = ("knee", "best", "fastest")


@dataclass(frozen=True)
class FrontMember:
    """One network of the front.

    Attributes:
        number: Of its trial.
        latency: Predicted latency by target.
        objectives: What was evaluated and maximised, by name; empty where everything was known beforehand.
        scores: Numbers reported beside it; NaN where one was not finite.
    """

    number: int
    architecture: Architecture
    params: int
    macs: int
    latency: Mapping[str, Latency]
    objectives: Mapping[str, float]
    scores: Mapping[str, float]

    def value(self, objective: str) -> float:
        """The value of an objective by name: evaluated, ``params``, ``macs`` or ``latency:TARGET``.

        Raises:
            KeyError: The network has no such number.
        """
        if objective in self.objectives:
            return self.objectives[objective]
        if objective in SIZES:
            return float(self.params if objective == "params" else self.macs)
        return self.latency[Objective(objective).target or objective].ms


class SearchResult:
    """The answer of a search.

    Args:
        run: The run folder.
        document: What its ``front.json`` holds.
        is_interrupted: Whether the search was stopped before its budget was spent.

    Attributes:
        run: The run folder.
        document: What its ``front.json`` holds, the same as ``--json`` prints.
        is_interrupted: Whether the search was stopped before its budget was spent; resuming goes on.
    """

    def __init__(self, run: Path, document: Mapping[str, Any], is_interrupted: bool = False) -> None:
        self.run = run
        self.document = document
        self.is_interrupted = is_interrupted

    @cached_property
    def front(self) -> list[FrontMember]:
        """The networks with the best trade-offs, the fastest first.

        Raises:
            RunError: The document lacks a field.
        """
        try:
            return [_member(entry) for entry in self.document["front"]]
        except (KeyError, TypeError, SearchSpaceError) as error:
            raise RunError(f"`{self.run / 'front.json'}` is damaged: {type(error).__name__}: {error}") from error

    @cached_property
    def fronts(self) -> dict[str, list[FrontMember]]:
        """The front of each device, the fastest first: what a search for that device alone makes of the same networks.

        Raises:
            RunError: The document lacks a field.
        """
        if "fronts" not in self.document:
            return {self.target: self.front}
        try:
            return {
                target: [_member(entry) for entry in entries] for target, entries in self.document["fronts"].items()
            }
        except (KeyError, TypeError, AttributeError, SearchSpaceError) as error:
            raise RunError(f"`{self.run / 'front.json'}` is damaged: {type(error).__name__}: {error}") from error

    @property
    def settled(self) -> FrontMember | None:
        """The network that the controller itself ended with; None where it only proposes.

        Raises:
            RunError: The document lacks a field.
        """
        entry = self.document.get("settled")
        try:
            return None if entry is None else _member(entry)
        except (KeyError, TypeError, SearchSpaceError) as error:
            raise RunError(f"`{self.run / 'front.json'}` is damaged: {type(error).__name__}: {error}") from error

    @property
    def target(self) -> str:
        """The device that latencies are predicted for."""
        return str(self.document["target"])

    @property
    def objective(self) -> str:
        """Name of the leading objective: what was evaluated and maximised, else the first that was minimised."""
        return lead_of(self.objectives).name

    @property
    def objectives(self) -> list[Objective]:
        """All that the search optimised, the leading one first."""
        return document_objectives(self.document)

    @property
    def evaluated(self) -> int:
        """The number of networks that were evaluated."""
        return int(self.document["evaluated"])

    def pick(self, which: str | int = "knee") -> FrontMember:
        """One member of the front.

        Args:
            which: ``knee`` (where more latency stops paying), ``best`` (best leading objective), ``fastest``, an index
                into `front`, or ``settled`` where the controller ended with a network of its own. Of a search for
                several devices the first three are of the target's front, and ``TARGET:knee`` of another one's.

        Raises:
            UsageError: There is no such member.
            NasError: The front is empty.
        """
        settled = self.settled if which == "settled" else None
        if settled is not None:
            return settled
        target, _, name = str(which).rpartition(":")
        if target and target not in self.fronts:
            raise UsageError(
                f"no front for `{target}`",
                hint=f"this run has those of {', '.join(f'`{name}`' for name in self.fronts)}",
            )
        if name in PICKS:
            return self._picked(self.fronts.get(target or self.target, self.front), name, target or self.target)
        front = self.fronts[target] if target else self.front
        if not front:
            raise self._empty()
        index = int(name) if name.lstrip("-").isdigit() else None
        if index is None or not 0 <= index < len(front):
            raise UsageError(
                f"no network `{which}` on the front of {len(front)}",
                hint=f"pick {', '.join(f'`{name}`' for name in PICKS)}, or a number from 0 to {len(front) - 1}",
            )
        return front[index]

    def _picked(self, front: Sequence[FrontMember], which: str, target: str) -> FrontMember:
        if not front:
            raise self._empty()
        latency = latency_of(target).name
        has_latency = any(objective.name == latency for objective in self.objectives)
        if which == "fastest":
            return min(front, key=lambda member: member.value(latency))
        lead = lead_of(self.objectives)
        if which == "best":
            return min(front, key=lambda member: lead.cost(member.value(lead.name)))
        # Latency comes first; a search without it is judged by all of its objectives.
        traded = trade_off(self.objectives, target)[::-1] if has_latency else self.objectives
        costs = [[objective.cost(member.value(objective.name)) for objective in traded] for member in front]
        return front[knee(np.array(costs, dtype=np.float64))]

    def _empty(self) -> NasError:
        return NasError(f"the front of `{self.run}` is empty", hint="go on with a larger budget and `--resume`")

    def export(self, pick: str | int = "knee", output: Path | str | None = None) -> Path:
        """Write one member as a checkpoint and ONNX file that have been proven to agree; see `nas.exporting.export`."""
        from nas.exporting.verify import export_member

        return export_member(self, pick, None if output is None else Path(output)).folder

    def report(self) -> Path:
        """Write ``report.html`` into the run folder, and return its path."""
        from nas.report import build_report

        return build_report(self.run)

    def plot(self) -> Any:
        """The front as a plotly figure."""
        from nas.report import front_figure

        return front_figure(dict(self.document))

    def __repr__(self) -> str:
        return f"SearchResult(run={str(self.run)!r}, front={len(self.front)} networks, evaluated={self.evaluated})"


def load_result(run: Path | str) -> SearchResult:
    """The result of a finished search from its run folder.

    Raises:
        RunError: The folder holds no readable result.
    """
    folder = Path(run)
    path = folder / "front.json"
    if not path.exists():
        hint = "go on with `--resume`" if (folder / "settings.json").exists() else "name a run folder"
        raise RunError(f"`{folder}` holds no `front.json`, so no finished search", hint=hint)
    document = read_json(path)
    if document.get("schema") != FRONT_SCHEMA:
        raise RunError(f"`{path}` has schema {document.get('schema')!r}, expected {FRONT_SCHEMA}")
    return SearchResult(folder, document)


def front_document(
    *,
    run: Path,
    space: str,
    seed: int,
    target: str,
    limit_ms: float | None,
    objective: str,
    evaluated: int,
    front: Sequence[Trial],
    sources: Sequence[str],
    settled: Trial | None = None,
) -> dict[str, Any]:
    """What ``front.json`` holds: the front of a search and where its numbers come from, ready for JSON.

    ``settled`` is the network that the controller itself ended with, where it did.
    """
    document = {
        "schema": FRONT_SCHEMA,
        "space": space,
        "run": str(run),
        "seed": seed,
        "target": target,
        "limit_ms": limit_ms,
        "objectives": {"maximise": objective, "minimise": "latency"},
        "evaluated": evaluated,
        "front": [_entry(trial) for trial in front],
        "sources": list(sources),
    }
    return document if settled is None else {**document, "settled": _entry(settled)}


def with_many(
    document: Mapping[str, Any], objectives: Sequence[Objective], limits: Sequence[Limit], trials: Sequence[Trial]
) -> dict[str, Any]:
    """The document with what only searches have that are not for quality and the latency of one device.

    Added are all ``objectives`` with their goals, all ``limits``, and in ``fronts`` the front of each device.

    Args:
        trials: All of the search, or at least those on a device's front; those of the document's front stand in the
            fronts as they stand there.
    """
    known = {entry["number"]: entry for entry in document["front"]}
    fronts = {
        target: [known.get(trial.number) or _entry(trial) for trial in front]
        for target, front in device_fronts(trials, objectives).items()
    }
    maximised = [objective.name for objective in objectives if objective.is_evaluated]
    minimised = [objective.name for objective in objectives if not objective.is_evaluated]
    return {
        **document,
        "objectives": {"maximise": maximised[0] if maximised else None, "minimise": minimised},
        "limits": {limit.name: {"lower": limit.lower or None, "upper": limit.upper} for limit in limits},
        "fronts": fronts,
    }


def document_objectives(document: Mapping[str, Any]) -> list[Objective]:
    """All objectives of a front document, the leading one first."""
    names = document["objectives"]
    maximised, minimised = names.get("maximise"), names.get("minimise", "latency")
    if minimised == "latency":
        minimised = [latency_of(str(document["target"])).name]
    lead = [] if maximised is None else [Objective(str(maximised), is_evaluated=True)]
    return [*lead, *(Objective(str(name)) for name in minimised)]


def _entry(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "architecture": trial.architecture.to_dict(),
        "params": trial.params,
        "macs": trial.macs,
        "latency": {name: asdict(latency) for name, latency in trial.latency.items()},
        "objectives": dict(trial.objectives),
        "scores": {name: value if math.isfinite(value) else None for name, value in trial.scores.items()},
    }


def _member(entry: Mapping[str, Any]) -> FrontMember:
    return FrontMember(
        number=int(entry["number"]),
        architecture=Architecture.from_dict(entry["architecture"]),
        params=int(entry["params"]),
        macs=int(entry["macs"]),
        latency={target: Latency(**record) for target, record in entry["latency"].items()},
        objectives={name: float(value) for name, value in entry["objectives"].items()},
        scores={name: math.nan if value is None else float(value) for name, value in entry.get("scores", {}).items()},
    )
