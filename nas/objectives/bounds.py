"""The bounds of a search: limits on predicted latency, on as many devices as wanted, and on parameters and MACs.

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
from nas.objectives.objective import Objective, latency_of
from nas.objectives.problem import SearchProblem
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
    """What one known quantity must stay within.

    Attributes:
        name: ``latency:TARGET`` (milliseconds), ``params`` or ``macs``.
        upper: Its largest value.
        lower: Its smallest one; 0 where only the upper end counts.
    """

    name: str
    upper: float
    lower: float = 0.0

    def describe(self, value: float) -> str:
        """Why ``value`` is out of bounds, in a few words."""
        target = Objective(self.name).target
        if target is not None:
            return f"up to {value:.4g} ms on {target}, limit {self.upper:g} ms"
        span = f"from {self.lower:g} to {self.upper:g}" if self.lower else f"at most {self.upper:g}"
        return f"{value:g} {self.name}, expected {span}"


@dataclass(frozen=True)
class Measured:
    """What is known of networks without evaluating them, ``[n]`` each.

    Attributes:
        latency: Predicted, by target.
    """

    params_n: npt.NDArray[np.int64]
    macs_n: npt.NDArray[np.int64]
    latency: Mapping[str, Latencies]

    def cost(self, objective: Objective) -> Floats:
        """The value of a known objective, ``[n]``; NaN for one that has to be evaluated."""
        if objective.is_evaluated:
            return np.full(len(self.params_n), np.nan)
        if objective.target is not None:
            return np.asarray(self.latency[objective.target].ms, dtype=np.float64)
        return np.asarray(self.params_n if objective.name == "params" else self.macs_n, dtype=np.float64)

    def bounded(self, limit: Limit) -> Floats:
        """What a limit holds for, ``[n]``: the upper end of a latency, or a size."""
        target = Objective(limit.name).target
        if target is not None:
            return np.asarray(self.latency[target].high_ms, dtype=np.float64)
        return self.cost(Objective(limit.name))

    def latencies(self) -> list[dict[str, Latency]]:
        """The latencies of each network by target."""
        rows: list[dict[str, Latency]] = [{} for _ in self.params_n]
        for target, found in self.latency.items():
            columns = (column.tolist() for column in (found.ms, found.low_ms, found.high_ms, found.extrapolated))
            for row, ms, low, high, extrapolated in zip(rows, *columns, strict=True):
                row[target] = Latency(ms, low, high, found.kind, extrapolated)
        return rows


class Bounds:
    """What networks of a space may cost.

    Args:
        space: What the networks belong to.
        devices: Whose latency is predicted; the first one is the search's target.
        limits: All of them hold at once. Those on latency are on one of the devices.
    """

    def __init__(self, space: SearchSpace, devices: Sequence[Device], limits: Sequence[Limit] = ()) -> None:
        self.space = space
        self.devices = tuple(devices)
        self.limits = tuple(limits)

    @property
    def target(self) -> str:
        """The first device's name."""
        return self.devices[0].target

    @property
    def limit_ms(self) -> float | None:
        """The limit on the first device's latency; None where there is none."""
        name = latency_of(self.target).name
        return next((limit.upper for limit in self.limits if limit.name == name), None)

    def measure(self, genotypes: Genotypes) -> Measured:
        """What is known of valid genotypes ``[n, c]``."""
        cost = population_cost(self.space, genotypes)
        latency = {device.target: device.predictor.population(self.space, genotypes) for device in self.devices}
        return Measured(cost.params, cost.macs, latency)

    def costs(self, measured: Measured, objectives: Sequence[Objective]) -> Floats:
        """The known costs ``[n, k]``; NaN in the columns of evaluated objectives."""
        return np.stack([measured.cost(objective) for objective in objectives], axis=1)

    def excess(self, measured: Measured) -> Floats:
        """By what share of a limit networks are out of bounds, the worst limit counting, ``[n]``.

        Not positive where all limits hold; minus infinity without any.
        """
        return self._worst(measured, counts_lower=True)

    def overshoot(self, measured: Measured) -> Floats:
        """By what share of a limit networks exceed its upper end, the worst limit counting, ``[n]``."""
        return self._worst(measured, counts_lower=False)

    def reasons(self, measured: Measured) -> list[str]:
        """What each network breaks first, ``[n]``; empty where all limits hold."""
        reasons = [""] * len(measured.params_n)
        for limit in reversed(self.limits):
            value_n = measured.bounded(limit)
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
        measured = self.measure(genotype)
        reason = self.reasons(measured)[0]
        if not reason:
            return genotype
        architecture = self.space.decode(genotype)[0]
        target = Objective(self.limits[0].name).target
        if len(self.limits) == 1 and target is not None:
            high_ms = float(measured.bounded(self.limits[0])[0])
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
            known_costs=lambda genotypes: self.costs(self.measure(genotypes), objectives),
            excess=lambda genotypes: self.excess(self.measure(genotypes)),
            overshoot=lambda genotypes: self.overshoot(self.measure(genotypes)),
            feasible=feasible,
            evaluations=evaluations,
        )

    def _worst(self, measured: Measured, *, counts_lower: bool) -> Floats:
        worst_n = np.full(len(measured.params_n), -np.inf)
        for limit in self.limits:
            value_n = measured.bounded(limit)
            np.maximum(worst_n, (value_n - limit.upper) / limit.upper, out=worst_n)
            if counts_lower and limit.lower:
                np.maximum(worst_n, (limit.lower - value_n) / limit.upper, out=worst_n)
        return worst_n

    def _distance(self, genotypes: Genotypes) -> Floats:
        measured = self.measure(genotypes)
        if self.limits:
            return self.excess(measured)
        return np.asarray(measured.latency[self.target].high_ms, dtype=np.float64)


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
