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
from nas.files import read_json
from nas.objectives import knee
from nas.trial import Trial
from search_spaces import Architecture, SearchSpaceError

FRONT_SCHEMA = 1
PICKS = ("knee", "best", "fastest")


@dataclass(frozen=True)
class FrontMember:
    """One network of the front.

    Attributes:
        number: Of its trial.
        latency: Predicted latency by target.
        objectives: What the search maximised, by name.
        scores: Numbers reported beside it; NaN where one was not finite.
    """

    number: int
    architecture: Architecture
    params: int
    macs: int
    latency: Mapping[str, Latency]
    objectives: Mapping[str, float]
    scores: Mapping[str, float]


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
        """Name of what the search maximised."""
        return str(self.document["objectives"]["maximise"])

    @property
    def evaluated(self) -> int:
        """The number of networks that were evaluated."""
        return int(self.document["evaluated"])

    def pick(self, which: str | int = "knee") -> FrontMember:
        """One member of the front.

        Args:
            which: ``knee`` (where more latency stops paying), ``best`` (highest objective), ``fastest``, an index
                into `front`, or ``settled`` where the controller ended with a network of its own.

        Raises:
            UsageError: There is no such member.
            NasError: The front is empty.
        """
        settled = self.settled if which == "settled" else None
        if settled is not None:
            return settled
        front = self.front
        if not front:
            raise NasError(f"the front of `{self.run}` is empty", hint="go on with a larger budget and `--resume`")
        if which == "fastest":
            return front[0]
        if which == "best":
            return max(front, key=lambda member: member.objectives[self.objective])
        if which == "knee":
            pairs = [(member.latency[self.target].ms, -member.objectives[self.objective]) for member in front]
            return front[knee(np.array(pairs, dtype=np.float64))]
        index = int(which) if isinstance(which, int) or which.lstrip("-").isdigit() else None
        if index is None or not 0 <= index < len(front):
            raise UsageError(
                f"no network `{which}` on the front of {len(front)}",
                hint=f"pick {', '.join(f'`{name}`' for name in PICKS)}, or a number from 0 to {len(front) - 1}",
            )
        return front[index]

    def export(self, pick: str | int = "knee", output: Path | str | None = None) -> Path:
        """Write one member as a checkpoint and ONNX file that have been proven to agree; see `nas.export`."""
        from nas.deliver import export_member

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
