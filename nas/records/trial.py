"""A trial: one network that a controller proposed, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from nas.records.network import NetworkRecord, number, read_record, record, text, whole
from search_spaces import Architecture, Genotypes, SearchSpace, SearchSpaceError

_encode = json.JSONEncoder(allow_nan=False).encode  # made once: there may be thousands of lines to write
_DAMAGES = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, SearchSpaceError)


class State(StrEnum):
    """What became of a trial."""

    RUNNING = "running"
    """Being evaluated, or it was when the process was killed; only ever in ``running.jsonl``."""
    DONE = "done"
    INFEASIBLE = "infeasible"
    """Out of bounds; never evaluated."""
    FAILED = "failed"
    """Could not be evaluated, or gave no finite number."""
    LOST = "lost"
    """Its worker died, each time that it was tried."""
    STOPPED = "stopped"
    """Evaluated at less than full fidelity, and not good enough there for more."""


LINE = (
    '{{"number": {}, "state": {}, "reason": {}, "choices": {}, "genotype": {}, "params": {}, "macs": {}, "latency": {},'
    ' {}"objectives": {}, "scores": {}, "seconds": {}{}}}'
)
"""A line of ``trials.jsonl``: its fields in their order, each filled with JSON. Further costs with their name and a
comma stand before the objectives, and the fidelity with its name behind the seconds, both only where there are any."""


@dataclass(frozen=True, kw_only=True)
class Trial(NetworkRecord):
    """One trial, as a line of ``trials.jsonl``.

    Its objectives are empty unless it is ``done`` or ``stopped``.

    Attributes:
        reason: Why it is not ``done``; empty otherwise.
        seconds: Time that the evaluation took.
        fidelity: Share of a full evaluation that its numbers come from.
    """

    number: int
    state: State
    reason: str
    genotype: tuple[int, ...]
    seconds: float
    fidelity: float = 1.0

    @property
    def row(self) -> Genotypes:
        """The genotype as a row ``[c]``."""
        return np.array(self.genotype, dtype=np.int8)

    def to_line(self) -> str:
        """One line of JSON, without the line end."""
        data = self.to_json()
        return LINE.format(
            self.number,
            _encode(self.state.value),
            _encode(self.reason),
            _encode(dict(self.architecture.settings)),
            _encode(list(self.genotype)),
            *(_encode(data[name]) for name in ("params", "macs", "latency")),
            f'"costs": {_encode(data["costs"])}, ' if "costs" in data else "",
            _encode(data["objectives"]),
            _encode(data["scores"]),
            _encode(round(self.seconds, 6)),
            f', "fidelity": {_encode(self.fidelity)}' if self.fidelity < 1 else "",
        )

    @classmethod
    def from_line(cls, line: str, space: SearchSpace) -> Trial:
        """Read what `to_line` wrote.

        Raises:
            ValueError: The line is not JSON, lacks a field, or holds no network of ``space``.
        """
        try:
            data: dict[str, Any] = json.loads(line)
            trial = cls.from_json(data, space.from_values(data["choices"]))
        except _DAMAGES as error:
            raise ValueError(f"not a trial of space `{space.name}`: {type(error).__name__}: {error}") from error
        if tuple(space.encode([trial.architecture])[0].tolist()) != trial.genotype:
            raise ValueError("choices and genotype disagree")
        return trial

    @classmethod
    def from_lines(cls, lines: Sequence[str], space: SearchSpace) -> list[Trial]:
        """Read what `to_line` wrote, all networks at once and therefore many times as fast as one by one.

        Raises:
            ValueError: A line is damaged; `from_line` says which and how.
        """
        if not lines:
            return []
        try:
            documents: list[dict[str, Any]] = [json.loads(line) for line in lines]
            architectures = space.decode(np.array([data["genotype"] for data in documents], dtype=np.int8))
            if any(dict(a.settings) != data["choices"] for a, data in zip(architectures, documents, strict=True)):
                raise ValueError("choices and genotype disagree")
            return [cls.from_json(*pair) for pair in zip(documents, architectures, strict=True)]
        except (*_DAMAGES, IndexError) as error:
            raise ValueError(f"not trials of space `{space.name}`: {type(error).__name__}: {error}") from error

    @classmethod
    def from_json(cls, data: Mapping[str, Any], architecture: Architecture) -> Trial:
        """A trial from the object in its line, with its network made from the ``choices`` in it.

        Raises:
            ValueError: A field is missing or of the wrong type, or a number is not finite.
        """
        return cls(
            architecture=architecture,
            number=whole(data, "number", ""),
            state=State(text(data, "state", "")),
            reason=text(data, "reason", ""),
            genotype=tuple(int(index) for index in data["genotype"]),
            seconds=number(data, "seconds", ""),
            fidelity=number(data, "fidelity", "") if "fidelity" in data else 1.0,
            **read_record(data),
        )


def parse_trial(data: object, space: str) -> Trial:
    """A trial of a space that need not be installed; whether its choices and its genotype agree is not checked.

    Args:
        data: The JSON object of its line.
        space: Name of the space.

    Raises:
        ValueError: It is no trial.
    """
    if not isinstance(data, dict):
        raise ValueError(f"found {type(data).__name__}, expected an object")
    choices = record(data, "choices", "")
    architecture = Architecture(space, 0, tuple((name, whole(choices, name, "choices.")) for name in choices))
    try:
        return Trial.from_json(data, architecture)
    except (KeyError, TypeError) as error:
        raise ValueError(f"`genotype`: {type(error).__name__}: {error}") from error
