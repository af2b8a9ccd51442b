"""The bounds of a search: limits on predicted latency, on as many devices as wanted, and on any other quantity.

A limit on latency holds for the upper end of the predicted interval. A limit may be a window, as in ViT-ResNAS (Liao,
Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", 2021, arXiv 2109.00642), where networks
have between 0.975 of the multiply-accumulates asked for and all of them; what lies below is out of bounds as well.

Legend of array suffixes: n genotypes, c choices, k objectives.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from latency_tables.predictor import Latencies, Latency
from nas.errors import InfeasibleError, UnsatisfiableError
from nas.objectives.objective import Objective
from nas.objectives.problem import SearchProblem
from nas.objectives.quantities import Column, get_quantity
from nas.records.network import SIZES, latency_name, target_of
from search_spaces import Genotypes, SearchSpace, population_cost

Floats = npt.NDArray[np.float64]

STARTING_SAMPLE = 20_000


class PopulationPredictor(Protocol):
    """Predicts the latency of many networks at once, as `latency_tables.predictor.LatencyPredictor` does."""

    def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
        """The latencies of valid genotypes ``[n, c]``."""
        ...


@dataclass(frozen=True)
class Device:
    """Whose latency counts.

    Attributes:
        target: Its name.
        predictor: Where the predictions come from.
        source: One line that says what they rest on.
    """

    target: str
    predictor: PopulationPredictor
    source: str


@dataclass(frozen=True)
class Limit:
    """What one quantity must stay within.

    Attributes:
        name: Name of the quantity, for example ``latency:TARGET``, ``params`` or ``peak-memory``.
        upper: Its largest value, in the quantity's unit.
        lower: Its smallest value; 0 where only the upper end counts.
    """

    name: str
    upper: float
    lower: float = 0.0

    def describe(self, value: float) -> str:
        """Why ``value`` is out of bounds, in a few words."""
        target = target_of(self.name)
        if target is not None and value < self.lower:
            return f"up to {value:.4g} ms on {target}, expected {self.lower:.4g} to {self.upper:.4g} ms"
        if target is not None:
            return f"up to {value:.4g} ms on {target}, limit {self.upper:g} ms"
        if self.name in SIZES:
            span = f"from {self.lower:g} to {self.upper:g}" if self.lower else f"at most {self.upper:g}"
            return f"{value:g} {self.name}, expected {span}"
        text = get_quantity(self.name).text
        return f"{self.name} of {text(value)}, expected at most {text(self.upper)}"


@dataclass(frozen=True)
class PredictedCosts:
    """What is known of networks without evaluating them.

    Attributes:
        columns: Quantities other than latencies by name, ``[n]`` each: ``params``, ``macs``, and what else is used.
        latency: Predicted latencies by target.
    """

    columns: Mapping[str, Column]
    latency: Mapping[str, Latencies]

    def __len__(self) -> int:
        return len(self.columns["params"])

    def cost(self, objective: Objective) -> Floats:
        """The costs of a known objective, ``[n]``, minimised; NaN for one that has to be evaluated."""
        if objective.is_evaluated:
            return np.full(len(self), np.nan)
        target = objective.target
        values_n = self.columns[objective.name] if target is None else self.latency[target].ms
        costs_n = np.asarray(values_n, dtype=np.float64)
        return -costs_n if objective.is_maximised else costs_n

    def bounded(self, limit: Limit) -> Floats:
        """What a limit holds for, ``[n]``: the upper end of a latency, or a quantity's value."""
        target = target_of(limit.name)
        values_n = self.columns[limit.name] if target is None else self.latency[target].high_ms
        return np.asarray(values_n, dtype=np.float64)

    def costs(self) -> list[dict[str, float]]:
        """The quantities of each network by name, as a record has them."""
        columns = [column_n.tolist() for column_n in self.columns.values()]
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*columns, strict=True)]

    def latencies(self) -> list[dict[str, Latency]]:
        """The latencies of each network by target."""
        rows: list[dict[str, Latency]] = [{} for _ in range(len(self))]
        for target, found in self.latency.items():
            columns = (column.tolist() for column in (found.ms, found.low_ms, found.high_ms, found.extrapolated))
            for row, ms, low, high, extrapolated in zip(rows, *columns, strict=True):
                row[target] = Latency(ms, low, high, found.kind, extrapolated)
        return rows

    def rows(self, rows: Sequence[int]) -> PredictedCosts:
        """The same of some of the networks alone."""
        chosen = list(rows)
        latency = {
            target: Latencies(
                found.ms[chosen],
                found.low_ms[chosen],
                found.high_ms[chosen],
                found.kind,
                found.extrapolated[chosen],
            )
            for target, found in self.latency.items()
        }
        return PredictedCosts({name: column_n[chosen] for name, column_n in self.columns.items()}, latency)


class Bounds:
    """What networks of a space may cost.

    Args:
        space: What the networks belong to.
        devices: Whose latency is predicted; the first one is the search's target.
        limits: Limits that hold at once. Those on latency are on one of the devices.
        quantities: Names of further quantities that are predicted, for example because they are objectives.

    Raises:
        UnknownNameError: There is no such quantity.
    """

    def __init__(
        self,
        space: SearchSpace,
        devices: Sequence[Device],
        limits: Sequence[Limit] = (),
        quantities: Sequence[str] = (),
    ) -> None:
        self.space = space
        self.devices = tuple(devices)
        self.limits = tuple(limits)
        names = dict.fromkeys([*quantities, *(limit.name for limit in limits)])
        self._further = [get_quantity(name) for name in names if name not in SIZES and target_of(name) is None]

    @property
    def target(self) -> str:
        """The first device's name."""
        return self.devices[0].target

    @property
    def limit_ms(self) -> float | None:
        """The limit on the first device's latency; None where there is none."""
        name = latency_name(self.target)
        return next((limit.upper for limit in self.limits if limit.name == name), None)

    def predict(self, genotypes: Genotypes) -> PredictedCosts:
        """What is known of valid genotypes ``[n, c]``.

        Raises:
            NasError: A quantity of a network is not finite.
        """
        size = population_cost(self.space, genotypes)
        further = {quantity.name: quantity.column(self.space, genotypes) for quantity in self._further}
        latency = {device.target: device.predictor.population(self.space, genotypes) for device in self.devices}
        return PredictedCosts({"params": size.params, "macs": size.macs, **further}, latency)

    def costs(self, predicted: PredictedCosts, objectives: Sequence[Objective]) -> Floats:
        """The known costs ``[n, k]``; NaN in the columns of evaluated objectives."""
        return np.stack([predicted.cost(objective) for objective in objectives], axis=1)

    def excess(self, predicted: PredictedCosts) -> Floats:
        """By what share of a limit networks are out of bounds, the worst limit counting, ``[n]``.

        Not positive where all limits hold; minus infinity without any.
        """
        return self._worst(predicted, counts_lower=True)

    def overshoot(self, predicted: PredictedCosts) -> Floats:
        """By what share of a limit networks exceed its upper end, the worst limit counting, ``[n]``."""
        return self._worst(predicted, counts_lower=False)

    def reasons(self, predicted: PredictedCosts) -> list[str]:
        """What each network breaks first, ``[n]``; empty where all limits hold."""
        reasons = [""] * len(predicted)
        for limit in reversed(self.limits):
            value_n = predicted.bounded(limit)
            for row in np.flatnonzero(~((value_n <= limit.upper) & (value_n >= limit.lower))).tolist():
                reasons[row] = limit.describe(float(value_n[row]))
        return reasons

    def nearest(self) -> Genotypes:
        """The network farthest within the limits that can be found, or else nearest to them, as one row ``[1, c]``.

        Without limits it is the fastest one. The smallest network, the published ones and a large sample are starting
        points; the best of them goes down along single choices until none helps.
        """
        space = self.space
        known = space.encode([space.smallest, *space.named.values()])
        drawn = space.sample(STARTING_SAMPLE, np.random.default_rng(0))
        candidates = np.concatenate([known, drawn])
        while True:
            distance_n = self._distance(candidates)
            best, lowest = candidates[[int(np.argmin(distance_n))]], float(distance_n.min())
            neighbours = space.repair(one_choice_changes(space, best))
            if not len(neighbours) or float(self._distance(neighbours).min()) >= lowest:
                return best
            candidates = neighbours

    def check(self) -> Genotypes:
        """A network within all limits, as one row ``[1, c]``; see `nearest`.

        Raises:
            InfeasibleError: None was found, and the only limit is on the latency of one device.
            UnsatisfiableError: None was found.
        """
        genotype = self.nearest()
        predicted = self.predict(genotype)
        reason = self.reasons(predicted)[0]
        if not reason:
            return genotype
        architecture = self.space.decode(genotype)[0]
        target = target_of(self.limits[0].name)
        if len(self.limits) == 1 and target is not None:
            high_ms = float(predicted.bounded(self.limits[0])[0])
            raise InfeasibleError(architecture, target, high_ms, self.limits[0].upper)
        raise UnsatisfiableError(self.space.name, [limit.name for limit in self.limits], reason)

    def fingerprint(self) -> str:
        """Changes when predictions do: a digest of those for a fixed sample, to six digits, for each device."""
        sample = self.space.sample(64, np.random.default_rng(0))
        digests = []
        for device in self.devices:
            result = device.predictor.population(self.space, sample)
            figures = [f"{value:.6g}" for value in np.concatenate([result.ms, result.high_ms]).tolist()]
            digests.append(hashlib.sha256(json.dumps(figures).encode()).hexdigest()[:16])
        return "-".join(digests)

    def problem(
        self, objectives: Sequence[Objective], seed: int, evaluations: int | None, feasible: Genotypes
    ) -> SearchProblem:
        """What a controller searches in; ``feasible`` is what `check` gave."""
        return SearchProblem(
            space=self.space,
            seed=seed,
            objectives=tuple(objectives),
            known_costs=lambda genotypes: self.costs(self.predict(genotypes), objectives),
            excess=lambda genotypes: self.excess(self.predict(genotypes)),
            overshoot=lambda genotypes: self.overshoot(self.predict(genotypes)),
            feasible=feasible,
            evaluations=evaluations,
        )

    def _worst(self, predicted: PredictedCosts, *, counts_lower: bool) -> Floats:
        worst_n = np.full(len(predicted), -np.inf)
        for limit in self.limits:
            value_n = predicted.bounded(limit)
            np.maximum(worst_n, (value_n - limit.upper) / limit.upper, out=worst_n)
            if counts_lower and limit.lower:
                np.maximum(worst_n, (limit.lower - value_n) / limit.upper, out=worst_n)
        return worst_n

    def _distance(self, genotypes: Genotypes) -> Floats:
        predicted = self.predict(genotypes)
        if self.limits:
            return self.excess(predicted)
        return np.asarray(predicted.latency[self.target].high_ms, dtype=np.float64)


def one_choice_changes(space: SearchSpace, genotypes: Genotypes) -> Genotypes:
    """Every genotype ``[n, c]`` with one choice at another value, before the space's rules are applied."""
    changed = []
    for column, size in enumerate(space.cardinalities.tolist()):
        for shift in range(1, size):
            rows = genotypes.copy()
            rows[:, column] = (rows[:, column].astype(np.int64) + shift) % size
            changed.append(rows)
    width = len(space.cardinalities)
    return np.concatenate(changed).astype(np.int8) if changed else np.empty((0, width), dtype=np.int8)
