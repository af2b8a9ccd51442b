"""The latency bound: a hard limit on the upper end of the predicted interval. Legend: n genotypes, c choices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from latency_tables.predictor import Latencies, Latency
from nas.errors import InfeasibleError
from search_spaces import Genotypes, SearchSpace

FASTEST_SAMPLE = 20_000


class PopulationPredictor(Protocol):
    """Predicts the latency of many networks at once, as `latency_tables.predictor.LatencyPredictor` does."""

    def population(self, space: SearchSpace, genotypes: Genotypes) -> Latencies:
        """The latencies of valid genotypes ``[n, c]``."""
        ...


@dataclass(frozen=True)
class LatencyBound:
    """What a search must stay within.

    Attributes:
        target: Name of the device.
        limit_ms: The limit in milliseconds; None for no limit.
        predictor: Where the predictions come from.
        source: One line that says what the predictions rest on.
    """

    space: SearchSpace
    target: str
    limit_ms: float | None
    predictor: PopulationPredictor
    source: str

    def predict(self, genotypes: Genotypes) -> list[Latency]:
        """The predicted latency of each genotype ``[n, c]``."""
        result = self.predictor.population(self.space, genotypes)
        columns = (result.ms, result.low_ms, result.high_ms, result.extrapolated)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [Latency(ms, low, high, result.kind, extrapolated) for ms, low, high, extrapolated in rows]

    def excess_ms(self, genotypes: Genotypes) -> npt.NDArray[np.float64]:
        """By how much the upper latency exceeds the limit, ``[n]``; not positive where the limit holds."""
        if self.limit_ms is None:
            return np.full(len(genotypes), -np.inf)
        excess: npt.NDArray[np.float64] = self._high_ms(genotypes) - self.limit_ms
        return excess

    def latency_ms(self, genotypes: Genotypes) -> npt.NDArray[np.float64]:
        """The predicted latency of each genotype ``[n, c]`` in milliseconds, ``[n]``."""
        return np.asarray(self.predictor.population(self.space, genotypes).ms, dtype=np.float64)

    def fastest(self) -> tuple[Genotypes, float]:
        """The network with the lowest upper latency that can be found, as one row ``[1, c]``, and that latency.

        The smallest network, the published ones and a large sample are starting points; the best of them goes down
        along single choices until none helps.
        """
        space = self.space
        known = space.encode([space.smallest, *space.named.values()])
        drawn = space.sample(FASTEST_SAMPLE, np.random.default_rng(0))
        candidates = np.concatenate([known, drawn])
        high_n = self._high_ms(candidates)
        best, lowest = candidates[[int(np.argmin(high_n))]], float(high_n.min())
        while True:
            neighbours = self._neighbours(best)
            high_n = self._high_ms(neighbours)
            if not len(neighbours) or float(high_n.min()) >= lowest:
                return best, lowest
            best, lowest = neighbours[[int(np.argmin(high_n))]], float(high_n.min())

    def check(self) -> Genotypes:
        """The network with the lowest upper latency that was found, as one row ``[1, c]``.

        Raises:
            InfeasibleError: It exceeds the limit.
        """
        genotype, lowest = self.fastest()
        if self.limit_ms is not None and lowest > self.limit_ms:
            raise InfeasibleError(self.space.decode(genotype)[0], self.target, lowest, self.limit_ms)
        return genotype

    def fingerprint(self) -> str:
        """Changes when predictions do: a digest of those for a fixed sample, to six digits."""
        sample = self.space.sample(64, np.random.default_rng(0))
        result = self.predictor.population(self.space, sample)
        figures: Sequence[str] = [f"{value:.6g}" for value in np.concatenate([result.ms, result.high_ms]).tolist()]
        return hashlib.sha256(json.dumps(figures).encode()).hexdigest()[:16]

    def _high_ms(self, genotypes: Genotypes) -> npt.NDArray[np.float64]:
        return np.asarray(self.predictor.population(self.space, genotypes).high_ms, dtype=np.float64)

    def _neighbours(self, genotype: Genotypes) -> Genotypes:
        """All networks that differ in one choice from ``genotype`` ``[1, c]``, before rules tie others to it."""
        rows = []
        for column, size in enumerate(self.space.cardinalities.tolist()):
            for index in range(size):
                if index != genotype[0, column]:
                    row = genotype[0].copy()
                    row[column] = index
                    rows.append(row)
        neighbours = np.array(rows, dtype=np.int8).reshape(-1, genotype.shape[1])
        return self.space.repair(neighbours)
