"""Every kind of every unordered choice equally often in each step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search_spaces import SearchSpace
from supernets.errors import SupernetError
from supernets.sampling.policy import Assignment, Sampler, SamplingPolicy, Share, step_generator

IMAGES_PER_NETWORK = 8
"""Batches with fewer are not divided among the networks of a step, since batch norm sees the images of one alone."""


@dataclass(frozen=True)
class FairPolicy(SamplingPolicy):
    """As many networks a step as a choice has kinds at most, to which every choice deals all of its kinds; on labels.

    Each network sees a share of the batch, or, where that would be fewer than `IMAGES_PER_NETWORK`, the whole batch.
    Choices of sizes are drawn by the space, and the rules between choices are kept.

    Source: Chu et al., "FairNAS: Rethinking Evaluation Fairness of Weight Sharing Neural Architecture Search",
    arXiv 1907.01845, strict fairness.
    """

    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> FairSampler:
        """A sampler for batches of one size; without one nothing is divided.

        Raises:
            SupernetError: The space has no unordered choice.
        """
        return FairSampler(space, seed, batch_size or 0)


class FairSampler(Sampler):
    """`FairPolicy` in one training; it remembers nothing.

    Args:
        space: The search space.
        seed: Seed of all that is drawn.
        batch_size: Images of a step; 0 where that is not known.

    Attributes:
        count: Networks of a step.
    """

    def __init__(self, space: SearchSpace, seed: int, batch_size: int) -> None:
        self.space, self.seed = space, seed
        self._kinds = {column: len(choice.values) for column, choice in enumerate(space.choices) if choice.labels}
        if not self._kinds:
            raise SupernetError(
                f"sampling policy `fair`: no choice of space `{space.name}` is among kinds, expected one at least",
                hint="choose another `--policy`, for example `uniform`",
            )
        self.count = max(self._kinds.values())
        self._divides = batch_size >= IMAGES_PER_NETWORK * self.count

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """The step's networks."""
        generator = step_generator(self.seed, step)
        genotypes = self.space.sample(self.count, generator)
        for column, kinds in self._kinds.items():
            genotypes[:, column] = generator.permutation(np.resize(generator.permutation(kinds), self.count))
        networks = self.space.decode(self.space.repair(genotypes))
        return tuple(
            Assignment(network, "labels", Share(number, self.count) if self._divides else None)
            for number, network in enumerate(networks)
        )
