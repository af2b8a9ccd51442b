"""One network and all that is known of it: the record that trials, fronts, previews and reports share.

In JSON a record has ``params``, ``macs`` and ``latency`` by target, then ``costs`` by name where a search uses further
quantities, then what was evaluated. The same functions write it into ``trials.jsonl`` and ``front.json`` and check it
when it is read.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from latency_tables.predictor import Latency
from search_spaces import Architecture

LATENCY = "latency"
SIZES = ("params", "macs")
"""Costs that every record has, each in a field of its own in JSON."""

Read = TypeVar("Read")
_MOST = sys.float_info.max
_INTEGERS = 2**63
"""What whole numbers of arrays stay below."""


def latency_name(target: str) -> str:
    """The name of the latency on a device as a quantity: ``latency:TARGET``."""
    return f"{LATENCY}:{target}"


def target_of(name: str) -> str | None:
    """The device of ``latency:TARGET``; None for other quantities."""
    kind, _, target = name.partition(":")
    return target if kind == LATENCY else None


@dataclass(frozen=True, kw_only=True)
class NetworkRecord:
    """A network and all that is known of it.

    Attributes:
        architecture: The network.
        costs: Quantities that are known without an evaluation, by name: ``params``, ``macs``, and further ones that a
            search uses, each in its unit.
        latency: Predicted latency with its interval, by target.
        objectives: What was evaluated and is maximised, by name; empty where nothing was.
        scores: Numbers reported beside it, by name; NaN where one was not finite.
    """

    architecture: Architecture
    costs: Mapping[str, float]
    latency: Mapping[str, Latency]
    objectives: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def params(self) -> int:
        """Number of parameters."""
        return int(self.costs["params"])

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return int(self.costs["macs"])

    def value(self, name: str) -> float:
        """What was evaluated, a quantity, or the latency ``latency:TARGET``; NaN where the network has no such number.

        Of a latency it is the predicted value, not an end of its interval.
        """
        for known in (self.objectives, self.costs):
            if name in known:
                return float(known[name])
        latency = self.latency.get(target_of(name) or "")
        return math.nan if latency is None else latency.ms

    def to_json(self) -> dict[str, Any]:
        """All but the architecture, ready for JSON."""
        further = {name: value for name, value in self.costs.items() if name not in SIZES}
        return {
            **{name: self.costs[name] for name in SIZES},
            "latency": {target: dict(vars(latency)) for target, latency in self.latency.items()},
            **({"costs": further} if further else {}),
            "objectives": dict(self.objectives),
            "scores": {name: value if math.isfinite(value) else None for name, value in self.scores.items()},
        }


@dataclass(frozen=True, kw_only=True)
class NamedRecord(NetworkRecord):
    """A network that stands for others of its space, by the name of what it is.

    Attributes:
        name: For example ``fastest``, ``smallest``, ``middle`` or ``largest``.
    """

    name: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        data = self.to_json()
        known: dict[str, Any] = {name: data[name] for name in SIZES}
        known[LATENCY] = {target: latency.claims() for target, latency in self.latency.items()}
        return {"name": self.name, "architecture": self.architecture.to_dict(), **known}


def read_record(data: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The arguments of `NetworkRecord` but the architecture, from what `NetworkRecord.to_json` wrote.

    Args:
        data: The JSON object.
        where: Path of the object for messages, with a dot at its end; empty at the top.

    Raises:
        ValueError: A field is missing or of the wrong type, or a number is not finite; the message names it.
    """
    return {
        "costs": {
            **{name: whole(data, name, where) for name in SIZES},
            **mapping(data, "costs", where, number, default={}),
        },
        "latency": mapping(data, "latency", where, read_latency),
        "objectives": mapping(data, "objectives", where, number),
        "scores": mapping(data, "scores", where, _score, default={}),
    }


def read_latency(data: Mapping[str, Any], name: str, where: str) -> Latency:
    """The latency in a field; an interval that is not there has the width 0.

    Raises:
        ValueError: It is no latency.
    """
    fields, inside = record(data, name, where), f"{where}{name}."
    ms = number(fields, "ms", inside)
    low, high = (number(fields, end, inside) if fields.get(end) is not None else ms for end in ("low_ms", "high_ms"))
    return Latency(ms, low, high, str(fields.get("kind", "")), bool(fields.get("extrapolated", False)))


def record(data: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The JSON object in a field.

    Raises:
        ValueError: It is missing, or no object.
    """
    found = data.get(name)
    if not isinstance(found, dict):
        raise ValueError(_complaint(data, name, where, "an object"))
    return found


def mapping(
    data: Mapping[str, Any],
    name: str,
    where: str,
    read: Callable[[Mapping[str, Any], str, str], Read],
    default: Mapping[str, Read] | None = None,
) -> dict[str, Read]:
    """The JSON object in a field with each of its entries read by ``read``.

    Raises:
        ValueError: It is missing and there is no default, no object, or an entry of it cannot be read.
    """
    if default is not None and name not in data:
        return dict(default)
    found, inside = record(data, name, where), f"{where}{name}."
    return {key: read(found, key, inside) for key in found}


def number(data: Mapping[str, Any], name: str, where: str) -> float:
    """The finite number in a field.

    Raises:
        ValueError: It is missing, or no finite number.
    """
    found = data.get(name)
    if (type(found) is not float and type(found) is not int) or not abs(found) <= _MOST:
        raise ValueError(_complaint(data, name, where, "a finite number"))
    return found if abs(found) < _INTEGERS else float(found)


def whole(data: Mapping[str, Any], name: str, where: str) -> int:
    """The whole number in a field.

    Raises:
        ValueError: It is missing, or no whole number.
    """
    found = data.get(name)
    if type(found) is not int or abs(found) >= _INTEGERS:
        raise ValueError(_complaint(data, name, where, "a whole number"))
    return found


def text(data: Mapping[str, Any], name: str, where: str) -> str:
    """The text in a field.

    Raises:
        ValueError: It is missing, or no text.
    """
    found = data.get(name)
    if not isinstance(found, str):
        raise ValueError(_complaint(data, name, where, "text"))
    return found


def _score(data: Mapping[str, Any], name: str, where: str) -> float:
    return math.nan if data[name] is None else number(data, name, where)


def _complaint(data: Mapping[str, Any], name: str, where: str, expected: str) -> str:
    found = f"found {str(data[name])[:80]!r}" if name in data else "it is missing"
    return f"`{where}{name}`: {found}, expected {expected}"
