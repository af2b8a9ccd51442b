"""``front.json``, the answer of a search: the one place that reads it, and picks from it; `front_document` writes it.

A run folder may come from a stranger, so whatever is read is checked, and refused by name where it is not what a search
writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from nas.errors import RunError, UsageError
from nas.objectives.bounds import Limit
from nas.objectives.objective import Objective, latency_of, lead_of, trade_off
from nas.objectives.pareto import knee
from nas.records.files import read_json
from nas.records.network import NetworkRecord, mapping, number, read_record, record, text, whole
from nas.records.trial import Trial
from search_spaces import Architecture, SearchSpaceError
from search_spaces.json_file import check_fields

FRONT_FILE = "front.json"
FRONT_SCHEMA = 1
PICKS = ("knee", "best", "fastest")

Read = TypeVar("Read")


class _SourceModel(TypedDict):
    name: str
    weights: str
    license: str | None


@dataclass(frozen=True, kw_only=True)
class FrontMember(NetworkRecord):
    """One network of the front.

    Attributes:
        number: Number of its trial.
    """

    number: int

    @classmethod
    def of(cls, trial: Trial) -> FrontMember:
        """A trial as a member."""
        return cls(
            number=trial.number,
            architecture=trial.architecture,
            costs=trial.costs,
            latency=trial.latency,
            objectives=trial.objectives,
            scores=trial.scores,
        )

    def to_entry(self) -> dict[str, Any]:
        """The entry of ``front.json``."""
        return {"number": self.number, "architecture": self.architecture.to_dict(), **self.to_json()}

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any], where: str, needed: Sequence[str] = ()) -> FrontMember:
        """Read what `to_entry` wrote.

        Args:
            entry: The entry.
            where: Path of the entry for messages, with a dot at its end.
            needed: Names of objectives that it must have a value of.

        Raises:
            ValueError: A field is missing or of the wrong type, or a number is not finite.
        """
        try:
            architecture = Architecture.from_dict(record(entry, "architecture", where))
        except SearchSpaceError as error:
            raise ValueError(f"`{where}architecture`: {error}") from error
        member = cls(number=whole(entry, "number", where), architecture=architecture, **read_record(entry, where))
        missing = next((name for name in needed if math.isnan(member.value(name))), None)
        if missing is not None:
            raise ValueError(f"`{where[:-1]}` has no value of `{missing}`, which the search optimised")
        return member


class SearchFront:
    """What a search found.

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

    def check(self) -> None:
        """Read all parts of the document.

        Raises:
            RunError: A field is missing or of the wrong type, a number is not finite, or a network lacks a value of
                what the search optimised.
        """
        found = self.document.get("schema")
        if found != FRONT_SCHEMA:
            raise RunError(
                f"`{self.run / FRONT_FILE}` has schema {found!r}, expected {FRONT_SCHEMA}",
                hint="it was written by another version of this program, or by another program",
            )
        _ = (self.space, self.target, self.limit_ms, self.objectives, self.evaluated, self.front, self.fronts)
        _ = (self.settled, self.limits, self.sources, self.source_model)

    @cached_property
    def space(self) -> str:
        """Name of the search space."""
        return self._read(lambda: text(self.document, "space", ""))

    @cached_property
    def target(self) -> str:
        """The device that latencies are predicted for."""
        return self._read(lambda: text(self.document, "target", ""))

    @cached_property
    def seed(self) -> int:
        """Seed of the search."""
        return self._read(lambda: whole(self.document, "seed", ""))

    @cached_property
    def limit_ms(self) -> float | None:
        """The limit on the latency on the target, in milliseconds; None without one."""
        has_limit = self.document.get("limit_ms") is not None
        return self._read(lambda: number(self.document, "limit_ms", "")) if has_limit else None

    @cached_property
    def evaluated(self) -> int:
        """The number of networks that were evaluated."""
        return self._read(lambda: whole(self.document, "evaluated", ""))

    @cached_property
    def sources(self) -> list[str]:
        """What the predictions rest on, a line per device."""
        return self._read(lambda: [str(line) for line in _list(self.document, "sources")])

    @cached_property
    def objectives(self) -> list[Objective]:
        """All that the search optimised, the leading one first."""
        return self._read(lambda: _objectives(record(self.document, "objectives", ""), self.target))

    @property
    def objective(self) -> str:
        """Name of the leading objective: what was evaluated and maximised, else the first that is no latency."""
        return lead_of(self.objectives).name

    @cached_property
    def limits(self) -> list[Limit]:
        """All limits; of a search for quality and the latency of one device only that on its latency."""
        if "limits" not in self.document:
            return [] if self.limit_ms is None else [Limit(latency_of(self.target).name, self.limit_ms)]
        return list(self._read(lambda: mapping(self.document, "limits", "", _limit)).values())

    @cached_property
    def front(self) -> list[FrontMember]:
        """The networks with the best trade-offs, the fastest first.

        Raises:
            RunError: The document does not say so.
        """
        return self._read(lambda: self._members(self.document, "front", "", self.objectives))

    @cached_property
    def fronts(self) -> dict[str, list[FrontMember]]:
        """The front of each device, the fastest first: what a search for that device alone makes of the same networks.

        Raises:
            RunError: The document does not say so.
        """
        if "fronts" not in self.document:
            return {self.target: self.front}

        def members(data: Mapping[str, Any], target: str, where: str) -> list[FrontMember]:
            return self._members(data, target, where, [latency_of(target), *self.objectives])

        return self._read(lambda: mapping(self.document, "fronts", "", members))

    @cached_property
    def source_model(self) -> dict[str, str | None] | None:
        """Name, weights and licence of the model that was searched; None of a search in a space of ours."""
        if "model" not in self.document:
            return None
        model = self._read(lambda: record(self.document, "model", ""))
        self._read(lambda: check_fields(_SourceModel, model))
        return {name: model[name] for name in ("name", "weights", "license")}

    @cached_property
    def settled(self) -> FrontMember | None:
        """The network that the controller itself ended with; None where it only proposes."""
        if self.document.get("settled") is None:
            return None
        return self._read(lambda: FrontMember.from_entry(record(self.document, "settled", ""), "settled."))

    @property
    def default_pick(self) -> str:
        """What ships where nothing else is asked for: what the run itself exported, else the knee."""
        verified = self.document.get("verified")
        return str(verified.get("pick", PICKS[0])) if isinstance(verified, dict) else PICKS[0]

    def pick(self, which: str | int | None = None) -> FrontMember:
        """One member of the front.

        Args:
            which: ``knee`` (where more latency stops paying), ``best`` (best leading objective), ``fastest``, an index
                into `front`, or ``settled`` where the controller ended with a network of its own; None takes the
                `default_pick`. Of a search for several devices the first three are of the target's front, and
                ``TARGET:knee`` of another one's.

        Raises:
            UsageError: There is no such member.
            RunError: The front is empty.
        """
        which = self.default_pick if which is None else which
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
        latency = latency_of(target)
        if which == "fastest":
            if any(math.isnan(member.value(latency.name)) for member in front):
                raise UsageError(f"`{self.run}` knows no latency on `{target}`", hint="pick the knee, or a number")
            return min(front, key=lambda member: member.value(latency.name))
        lead = lead_of(self.objectives)
        if which == "best":
            return min(front, key=lambda member: lead.cost(member.value(lead.name)))
        # Latency comes first; a search without it is judged by all of its objectives.
        traded = trade_off(self.objectives, target)[::-1] if latency in self.objectives else self.objectives
        costs = [[objective.cost(member.value(objective.name)) for objective in traded] for member in front]
        return front[knee(np.array(costs, dtype=np.float64))]

    def _empty(self) -> RunError:
        return RunError(f"the front of `{self.run}` is empty", hint="go on with a larger budget and `--resume`")

    def _members(
        self, data: Mapping[str, Any], name: str, where: str, objectives: Sequence[Objective]
    ) -> list[FrontMember]:
        needed = list(dict.fromkeys(objective.name for objective in objectives))
        members = []
        for position, entry in enumerate(_list(data, name, where)):
            if not isinstance(entry, dict):
                raise ValueError(f"`{where}{name}.{position}`: found {type(entry).__name__}, expected an object")
            members.append(FrontMember.from_entry(entry, f"{where}{name}.{position}.", needed))
        return members

    def _read(self, read: Callable[[], Read]) -> Read:
        try:
            return read()
        except ValueError as error:
            raise RunError(
                f"`{self.run / FRONT_FILE}` is damaged: {error}",
                hint="restore the file from a copy, or search anew with `--force`",
            ) from error


def read_front(run: Path) -> dict[str, Any]:
    """The document in the ``front.json`` of a run folder.

    Raises:
        RunError: The folder holds no readable one.
    """
    path = run / FRONT_FILE
    if not path.exists():
        hint = "go on with `--resume`" if (run / "settings.json").exists() else "name a run folder"
        raise RunError(f"`{run}` holds no `{FRONT_FILE}`, so no finished search", hint=hint)
    return read_json(path)


def load_front(run: Path) -> SearchFront:
    """What a finished search found, from its run folder.

    Raises:
        RunError: The folder holds no readable result.
    """
    front = SearchFront(run, read_front(run))
    front.check()
    return front


def _objectives(names: Mapping[str, Any], target: str) -> list[Objective]:
    evaluated = None if names.get("maximise") is None else text(names, "maximise", "objectives.")
    less = names.get("minimise", "latency")
    minimised = [latency_of(target).name] if less == "latency" else _list(names, "minimise", "objectives.")
    lead = [] if evaluated is None else [Objective(evaluated, is_evaluated=True)]
    found = [*lead, *(Objective(str(name)) for name in (*names.get("also_maximise", ()), *minimised))]
    if not found:
        raise ValueError("`objectives`: found none, expected at least one")
    return found


def _limit(data: Mapping[str, Any], name: str, where: str) -> Limit:
    ends, inside = record(data, name, where), f"{where}{name}."
    lower = number(ends, "lower", inside) if ends.get("lower") is not None else 0.0
    return Limit(name, number(ends, "upper", inside), lower)


def _list(data: Mapping[str, Any], name: str, where: str = "") -> list[Any]:
    found = data.get(name)
    if not isinstance(found, list):
        raise ValueError(f"`{where}{name}`: {'it is missing' if found is None else 'it is no list'}, expected a list")
    return found
