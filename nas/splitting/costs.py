"""What the networks of a front cost on devices that share a model, and which of them fit.

Legend of array suffixes: M networks, those of the front and behind them the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np

from latency_tables.predictor import Latencies, Latency, LatencyPredictor
from latency_tables.trace import trace
from nas.errors import NasError
from nas.latency.device import load_device
from nas.objectives.quantities import PEAK_MEMORY, WEIGHT_BYTES
from nas.runs.front import SearchFront
from nas.splitting.devices import Link, Member
from nas.splitting.partition import Floats
from supernets.features import classifiers_in
from supernets.fusion import Fusion
from supernets.supernet import Supernet


class NothingFitsError(NasError):
    """No network of the front fits a device."""

    exit_code = 3


@dataclass(frozen=True)
class DeviceCosts:
    """What networks cost on one device.

    Attributes:
        member: The device.
        predictor: Its latency.
        source: What that rests on, in a line.
        latencies: Predicted latencies.
        bytes_M: Weights and activations in fp32.
    """

    member: Member
    predictor: LatencyPredictor
    source: str
    latencies: Latencies
    bytes_M: Floats

    @property
    def high_ms_M(self) -> Floats:
        """Upper ends of the latencies; infinite where nothing is known."""
        is_declined_M = self.latencies.extrapolated & (self.latencies.kind == "measured")
        return np.where(is_declined_M, np.inf, self.latencies.high_ms)

    def latency(self, number: int) -> Latency:
        """The predicted latency of one network."""
        found = self.latencies
        ms, low_ms, high_ms = (float(ends[number]) for ends in (found.ms, found.low_ms, found.high_ms))
        return Latency(ms, low_ms, high_ms, found.kind, bool(found.extrapolated[number]))


class FrontCosts:
    """Which networks of a front fit which device.

    Args:
        front: What a search found.
        supernet: Weights of its networks.
        members: The devices.
        link: How features travel.

    Attributes:
        devices: What the networks cost on each device.

    Raises:
        UnknownNameError, TableMissingError: There is no such device, or it has no table.
        SupernetError: The networks have no dense classifier.
    """

    def __init__(self, front: SearchFront, supernet: Supernet, members: Sequence[Member], link: Link) -> None:
        self.front, self.space, self.link = front, supernet.space, link
        self.architectures = [member.architecture for member in front.front]
        networks = (supernet.extract(architecture) for architecture in self.architectures)
        self.widths = [classifiers_in(network, self.space)[0].in_features for network in networks]
        self.devices = [self._costs(member) for member in members]

    def accuracy(self, number: int) -> float:
        """What the search found for a network of the front."""
        return self.front.front[number].value(self.front.objective)

    def limit_ms(self, share: float) -> float:
        """A share of the upper end of what the whole model takes on the fastest device."""
        return share * min(float(costs.high_ms_M[-1]) for costs in self.devices)

    def fusion(self, widths: Sequence[int]) -> Latency:
        """What fusing so many features of each device takes on the first one."""
        graph = trace(Fusion(widths, self.space.classes), (sum(widths),), "the fusion")
        return self.devices[0].predictor.graph(graph)

    def alone(self, limit_ms: float) -> tuple[int, int]:
        """The device and the most accurate network that keeps to a limit there without any other, the fastest of such.

        There is one where networks fit with all that a split adds.
        """
        fits = [
            (self.accuracy(number), -float(costs.high_ms_M[number]), device, number)
            for device, costs in enumerate(self.devices)
            for number in self._with_room(costs)
            if costs.high_ms_M[number] <= limit_ms
        ]
        return max(fits)[2:]

    def fitting(self, device: int, limit_ms: float) -> list[int]:
        """The networks that fit a device with sending and fusion, the most accurate first.

        Raises:
            NothingFitsError: There is none.
        """
        costs = self.devices[device]
        with_room, target = self._with_room(costs), costs.member.target
        if not with_room:
            least = float(costs.bytes_M[:-1].min())
            raise NothingFitsError(
                f"no network of the front has room on `{target}`: the smallest takes {PEAK_MEMORY.text(least)}",
                hint="leave the device out, or search again for smaller networks",
            )
        beside = [self.link.send_ms(width) + self._most_fusion_ms for width in self.widths]
        high = {number: float(costs.high_ms_M[number]) + beside[number] for number in with_room}
        found = [number for number in with_room if high[number] <= limit_ms]
        least = min(high.values())
        if math.isinf(least):
            raise NothingFitsError(
                f"the table of `{target}` has no evidence for any network of the front that has room there",
                hint=f"measure networks of their space: `nas latency build` with `--spaces {self.space.name}`",
            )
        if not found:
            raise NothingFitsError(
                f"no network of the front is done on `{target}` within {limit_ms:.3g} ms: the fastest that has room"
                f" takes up to {least:.3g} ms with sending and fusion",
                hint=f"raise `--limit` to {math.ceil(10 * least) / 10:g}ms or more, leave the device out, or search"
                " again with a lower limit",
            )
        return sorted(found, key=lambda number: -self.accuracy(number))

    def _costs(self, member: Member) -> DeviceCosts:
        device = load_device(self.space, member.target)
        predictor = cast("LatencyPredictor", device.predictor)
        genotypes = self.space.encode([*self.architectures, self.space.largest])
        found = predictor.population(self.space, genotypes)
        occupied = WEIGHT_BYTES.column(self.space, genotypes) + PEAK_MEMORY.column(self.space, genotypes)
        return DeviceCosts(member, predictor, device.source, found, np.asarray(occupied, dtype=np.float64))

    def _with_room(self, costs: DeviceCosts) -> list[int]:
        memory = math.inf if costs.member.memory is None else costs.member.memory
        return [number for number in range(len(self.architectures)) if costs.bytes_M[number] <= memory]

    @cached_property
    def _most_fusion_ms(self) -> float:
        return self.fusion([max(self.widths)] * len(self.devices)).high_ms
