"""Networks drawn by the space."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces import SearchSpace
from supernets.sampling.policy import Assignment, StatelessPolicy, draw


@dataclass(frozen=True)
class UniformPolicy(StatelessPolicy):
    """Architectures drawn by the space, all on labels.

    Source: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020,
    arXiv 1904.00420.
    """

    count: int = 1

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """``count`` drawn architectures."""
        return tuple(Assignment(drawn, "labels") for drawn in draw(space, self.count, seed, step))
