"""What the report reads from a run folder, checked at the door: the folder may come from a stranger."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nas.errors import RunError
from nas.objectives.objective import SIZES, Objective
from nas.records.files import read_json
from nas.result import FRONT_SCHEMA


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class LatencyRecord(_Record):
    """A latency in milliseconds with its interval, for one image."""

    ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    kind: str = ""
    extrapolated: bool = False


class Evaluated(_Record):
    """What trials and members of the front have in common."""

    number: int
    params: int | None = None
    macs: int | None = None
    latency: dict[str, LatencyRecord] = Field(default_factory=dict)
    objectives: dict[str, float | None] = Field(default_factory=dict)

    def objective(self, name: str) -> float | None:
        """The finite value of an objective, evaluated or known beforehand; None where there is none."""
        value = self.objectives.get(name)
        if name not in self.objectives and name in SIZES:
            value = self.params if name == "params" else self.macs
        target = Objective(name).target
        if target is not None:
            value = self.latency_ms(target)
        return value if value is not None and math.isfinite(value) else None

    def latency_ms(self, target: str) -> float | None:
        """The finite predicted latency on ``target``; None where there is none."""
        record = self.latency.get(target)
        return record.ms if record is not None and math.isfinite(record.ms) else None


class Trial(Evaluated):
    """A line of ``trials.jsonl``."""

    state: Literal["done", "infeasible", "failed", "lost", "stopped"]
    choices: dict[str, int] = Field(default_factory=dict)
    scores: dict[str, float | None] = Field(default_factory=dict)


class ArchitectureRecord(_Record):
    """The JSON form of an architecture."""

    space: str
    version: int
    choices: dict[str, int]


class Candidate(Evaluated):
    """A member of the front."""

    params: int
    macs: int
    architecture: ArchitectureRecord


class Objectives(_Record):
    """Names of what was optimised.

    Attributes:
        maximise: What was evaluated; None where everything was known beforehand.
        minimise: ``latency`` on the target, or a list of everything.
    """

    maximise: str | None
    minimise: str | list[str] = "latency"

    @property
    def lead(self) -> str:
        """The objective that the page is about: what was maximised, else the first that is no latency."""
        names = [self.minimise] if isinstance(self.minimise, str) else self.minimise
        sizes = [name for name in names if name in SIZES]
        return self.maximise or next(iter([*sizes, *names]), "params")

    @property
    def sign(self) -> int:
        """1 where more of the leading objective is better, -1 where less is."""
        return -1 if self.maximise is None else 1


class LimitRecord(_Record):
    """The ends of what something must stay within."""

    lower: float | None = None
    upper: float


class Front(_Record):
    """``front.json``.

    Attributes:
        fronts: The front of each device, in a search that is not for quality and the latency of one alone.
        limits: All limits of such a search, by what they are on.
        verified: What was checked of one member: its trial's ``number``, its measured ``latency`` by target, and any
            further facts, which the page lists as they are.
        model: The model that the search began with, where it did.
        formats: By pick, what was found out about the files that it was exported to.
    """

    schema_number: int = Field(alias="schema")
    space: str
    target: str
    limit_ms: float | None = None
    seed: int | None = None
    objectives: Objectives
    evaluated: int
    front: list[Candidate]
    fronts: dict[str, list[Candidate]] = Field(default_factory=dict)
    limits: dict[str, LimitRecord] = Field(default_factory=dict)
    sources: list[str] = Field(default_factory=list)
    training: dict[str, Any] | None = None
    verified: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    formats: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def members(self) -> list[Candidate]:
        """The front that trades the leading objective for the target's latency."""
        return self.fronts.get(self.target, self.front)

    @property
    def verified_latency(self) -> LatencyRecord | None:
        """The latency measured on the target itself; None where the winner was not verified there."""
        latency = (self.verified or {}).get("latency")
        record = latency.get(self.target) if isinstance(latency, Mapping) else None
        try:
            return None if record is None else LatencyRecord.model_validate(record)
        except ValidationError as error:
            raise RunError(f"front.json: `verified.latency`: {_first(error)}") from error

    @property
    def verified_number(self) -> int | None:
        """The trial that was verified, where the document says so."""
        number = (self.verified or {}).get("number")
        return number if isinstance(number, int) else None


@dataclass(frozen=True)
class RunFolder:
    """Everything that the page shows.

    Attributes:
        trials: In order of their numbers; one that was written twice counts once, as written last.
    """

    path: Path
    front: Front
    trials: tuple[Trial, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> list[Trial]:
        """The trials with an objective and a latency on the target, in order."""
        name, target = self.front.objectives.lead, self.front.target
        return [
            trial
            for trial in self.trials
            if trial.state == "done" and trial.objective(name) is not None and trial.latency_ms(target) is not None
        ]


def read_run(path: Path) -> RunFolder:
    """Read a run folder.

    Raises:
        RunError: There is no such folder, it holds no front, or a file in it is not what a run writes.
    """
    if not path.is_dir():
        raise RunError(f"run folder `{path}`: not found", "give the folder that `nas search` wrote")
    front_file = path / "front.json"
    settings = read_json(path / "settings.json") if (path / "settings.json").is_file() else {}
    if not front_file.is_file():
        raise _no_front(path, settings.get("command"))
    return RunFolder(
        path=path,
        front=parse_front(read_json(front_file), f"`{front_file}`"),
        trials=_read_trials(path / "trials.jsonl"),
        settings=settings,
        environment=read_json(path / "environment.json") if (path / "environment.json").is_file() else {},
    )


def _no_front(path: Path, command: str | None) -> RunError:
    if command in ("train", "finish"):
        result = {"train": "training.json", "finish": "finish.json"}[command]
        return RunError(
            f"run folder `{path}` holds a `{command}` run, expected a search",
            f"what came out stands in `{path / result}`, and in the model card that `nas export {path}` writes",
        )
    hint = "give the folder that `nas search` wrote"
    if (path / "trials.jsonl").is_file():
        hint = f"finish the search first: `nas search --resume {path}`"
    return RunError(f"run folder `{path}`: no `front.json` in it", hint)


def parse_front(document: Mapping[str, Any], subject: str = "front document") -> Front:
    """Check a front document (the content of ``front.json``).

    Raises:
        RunError: A field is missing or of the wrong type, or the schema is of another version.
    """
    if document.get("schema") != FRONT_SCHEMA:
        found = document.get("schema")
        raise RunError(
            f"{subject}: schema {found!r}, expected {FRONT_SCHEMA}", "it is of another program or another version of it"
        )
    try:
        return Front.model_validate(document)
    except ValidationError as error:
        raise RunError(f"{subject}: {_first(error)}") from error


def parse_trials(trials: Iterable[Mapping[str, Any]]) -> tuple[Trial, ...]:
    """Check trial dictionaries (the lines of ``trials.jsonl``).

    Raises:
        RunError: One of them is not a trial.
    """
    parsed: dict[int, Trial] = {}
    for position, data in enumerate(trials, start=1):
        try:
            trial = Trial.model_validate(data)
        except ValidationError as error:
            raise RunError(f"trial {position}: {_first(error)}") from error
        parsed[trial.number] = trial
    return tuple(parsed[number] for number in sorted(parsed))


def _read_trials(path: Path) -> tuple[Trial, ...]:
    if not path.is_file():
        return ()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # a killed process leaves its last line unfinished
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"`{path}` cannot be read: {error}") from error
    trials = []
    for position, line in enumerate(lines, start=1):
        try:
            trials.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise RunError(f"`{path}` line {position}: not JSON: {error}") from error
    try:
        return parse_trials(trials)
    except RunError as error:
        raise RunError(f"`{path}`: {error}") from error


def _first(error: ValidationError) -> str:
    detail = error.errors()[0]
    where = ".".join(str(part) for part in detail["loc"])
    return f"`{where}`: {detail['msg']}, found {str(detail['input'])[:80]!r}"
