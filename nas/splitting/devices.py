"""Devices that share a network: what they are, what sending costs, and when the last of them is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import UsageError
from nas.objectives.units import LATENCY, SIZE

FEATURE_BYTES = 4
EXPECTED_DEVICES, EXPECTED_LINK = "`pixel6:1GB,raspberrypi4:512MB`", "`1MB/s` or `1MB/s,2ms`"


@dataclass(frozen=True)
class Member:
    """A device that takes part.

    Attributes:
        target: Name of its latency table.
        memory: Bytes that weights and activations may take; None for no bound.
    """

    target: str
    memory: float | None


@dataclass(frozen=True)
class Link:
    """What sending takes.

    Attributes:
        bytes_per_ms: Bytes in a millisecond.
        delay_ms: What every message takes besides.
    """

    bytes_per_ms: float
    delay_ms: float

    def send_ms(self, features: int) -> float:
        """Milliseconds until so many features have arrived."""
        return self.delay_ms + FEATURE_BYTES * features / self.bytes_per_ms


def parse_devices(text: str) -> list[Member]:
    """Devices as they are typed, each with the memory it has for the network, where that is bounded.

    Raises:
        UsageError: There are fewer than two, or a memory cannot be read.
    """
    members = []
    for word in text.split(","):
        target, colon, memory = word.strip().partition(":")
        if not target or (colon and not memory):
            raise UsageError(f"`devices` is `{text}`, expected names and memories such as {EXPECTED_DEVICES}")
        members.append(Member(target, SIZE.parse(memory) if colon else None))
    if len(members) < 2:
        raise UsageError(
            f"`devices` names {len(members)} device, expected two or more such as {EXPECTED_DEVICES}",
            hint="for one device: `nas search --target NAME --limit TIME`",
        )
    return members


def parse_link(text: str) -> Link:
    """A link as it is typed: bytes per second, and the delay of a message where it has one.

    Raises:
        UsageError: It is of another form.
    """
    speed, _, delay = (part.strip() for part in text.partition(","))
    if not speed.endswith("/s"):
        raise UsageError(f"`link` is `{text}`, expected {EXPECTED_LINK}")
    return Link(SIZE.parse(speed.removesuffix("/s")) / 1e3, LATENCY.parse(delay) if delay else 0.0)


def latency_ms(compute: Sequence[float], send: Sequence[float], fusion: float) -> float:
    """Until the classes are known: the slowest device with a link of its own, and what fuses the features.

    Args:
        compute: Milliseconds that each device computes.
        send: Milliseconds that each one's features travel.
        fusion: Milliseconds of the fusion.
    """
    return max(ms + sent for ms, sent in zip(compute, send, strict=True)) + fusion


def shared_link_ms(compute: Sequence[float], send: Sequence[float], fusion: float) -> float:
    """The same by a simulation in which all devices share one link: who is done first sends first, the rest wait."""
    free = 0.0
    for ms, sent in sorted(zip(compute, send, strict=True)):
        free = max(free, ms) + sent
    return free + fusion
