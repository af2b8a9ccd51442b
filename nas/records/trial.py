"""A trial: one network that a controller proposed, and what became of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from latency_tables.predictor import Latency
from search_spaces import Architecture, Genotypes, SearchSpace, SearchSpaceError

_encode = json.JSONEncoder(allow_nan=False).encode  # made once: there may be thousands of lines to write
_DAMAGES = (KeyError, TypeError, AttributeError, SearchSpaceError)


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


@dataclass(frozen=True)
class Trial:
    """One trial, as a line of ``trials.jsonl``.

    Attributes:
        reason: Why it is not ``done``; empty otherwise.
        latency: Predicted latency by target.
        objectives: What the search maximises, by name; empty unless ``done`` or ``stopped``.
        scores: Numbers reported beside the objective.
        seconds: Time that the evaluation took.
        fidelity: Share of a full evaluation that its numbers come from.
    """

    number: int
    state: State
    reason: str
    architecture: Architecture
    genotype: tuple[int, ...]
    params: int
    macs: int
    latency: Mapping[str, Latency]
    objectives: Mapping[str, float]
    scores: Mapping[str, float]
    seconds: float
    fidelity: float = 1.0

    @property
    def row(self) -> Genotypes:
        """The genotype as a row ``[c]``."""
        return np.array(self.genotype, dtype=np.int8)

    def to_line(self) -> str:
        """One line of JSON, without the line end."""
        document = {
            "number": self.number,
            "state": self.state.value,
            "reason": self.reason,
            "choices": dict(self.architecture.settings),
            "genotype": list(self.genotype),
            "params": self.params,
            "macs": self.macs,
            "latency": {target: vars(record) for target, record in self.latency.items()},
            "objectives": dict(self.objectives),
            "scores": {name: value if math.isfinite(value) else None for name, value in self.scores.items()},
            "seconds": round(self.seconds, 6),
        }
        if self.fidelity < 1:
            document["fidelity"] = self.fidelity
        return _encode(document)

    @classmethod
    def from_line(cls, line: str, space: SearchSpace) -> Trial:
        """Read what `to_line` wrote.

        Raises:
            ValueError: The line is not JSON, lacks a field, or holds no network of ``space``.
        """
        try:
            data: dict[str, Any] = json.loads(line)
            architecture = space.from_values(data["choices"])
            trial = cls._from_document(data, architecture)
        except _DAMAGES as error:
            raise ValueError(f"not a trial of space `{space.name}`: {type(error).__name__}: {error}") from error
        if tuple(space.encode([architecture])[0].tolist()) != trial.genotype:
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
            return [cls._from_document(*pair) for pair in zip(documents, architectures, strict=True)]
        except (*_DAMAGES, IndexError, OverflowError) as error:
            raise ValueError(f"not trials of space `{space.name}`: {type(error).__name__}: {error}") from error

    @classmethod
    def _from_document(cls, data: Mapping[str, Any], architecture: Architecture) -> Trial:
        return cls(
            number=int(data["number"]),
            state=State(data["state"]),
            reason=str(data["reason"]),
            architecture=architecture,
            genotype=tuple(int(index) for index in data["genotype"]),
            params=int(data["params"]),
            macs=int(data["macs"]),
            latency={target: Latency(**record) for target, record in data["latency"].items()},
            objectives={name: float(value) for name, value in data["objectives"].items()},
            scores={name: math.nan if value is None else float(value) for name, value in data["scores"].items()},
            seconds=float(data["seconds"]),
            fidelity=float(data.get("fidelity", 1.0)),
        )
