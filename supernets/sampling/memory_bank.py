"""The best networks of a complexity level that training has met, with their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces import Architecture


class MemoryBank:
    """At most ``capacity`` architectures with scores; a better newcomer replaces the worst of a full bank.

    Args:
        capacity: Number of architectures that it holds.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._scores: dict[Architecture, float] = {}

    def __len__(self) -> int:
        return len(self._scores)

    def __contains__(self, architecture: object) -> bool:
        return architecture in self._scores

    @property
    def is_half_full(self) -> bool:
        """Whether it holds more than half of what it can."""
        return 2 * len(self) > self.capacity

    @property
    def entries(self) -> list[tuple[Architecture, float]]:
        """Architectures and scores."""
        return list(self._scores.items())

    @property
    def best(self) -> Architecture | None:
        """The architecture of the highest score; None in an empty bank."""
        return max(self._scores, key=lambda architecture: self._scores[architecture], default=None)

    def add(self, architecture: Architecture, score: float) -> None:
        """Keep an architecture if there is room or it beats the worst; one that is held already gets the new score."""
        if architecture not in self._scores and len(self) == self.capacity:
            worst = min(self._scores, key=lambda held: self._scores[held])
            if self._scores[worst] >= score:
                return
            del self._scores[worst]
        self._scores[architecture] = score

    def draw(self, generator: np.random.Generator) -> Architecture:
        """An architecture of a bank that is not empty, with a probability proportional to ``exp(score)``."""
        scores = np.array(list(self._scores.values()))
        weights = np.exp(scores - scores.max())
        return list(self._scores)[generator.choice(len(scores), p=weights / weights.sum())]

    def restore(self, entries: Sequence[tuple[Architecture, float]]) -> None:
        """Hold what `entries` gave."""
        self._scores = dict(entries)
