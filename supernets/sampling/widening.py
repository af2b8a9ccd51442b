"""At first networks that differ in what the space is about alone, at last all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search_spaces import SearchSpace
from supernets.errors import SupernetError
from supernets.sampling.policy import Assignment, Sampler, SamplingPolicy, step_generator

HELD, WIDE = 0.25, 0.75
"""Shares of the training up to which all choices of the nucleus are held, and from which none is."""


@dataclass(frozen=True)
class WideningPolicy(SamplingPolicy):
    """One drawn network a step whose choices of `SearchSpace.nucleus` are held at first and freed one by one.

    In the first quarter of a training all of them are held, in the last quarter none is, and between them each is
    free with a probability that rises linearly, so that shared weights learn in networks that learn quickly. The idea
    is progressive shrinking's: Cai et al., "Once-for-All: Train One Network and Specialize it for Efficient
    Deployment", ICLR 2020, arXiv 1908.09791. What is held, and for how long, is our own.
    """

    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> WideningSampler:
        """A sampler that remembers nothing.

        Raises:
            SupernetError: The space has no choice to hold.
        """
        return WideningSampler(space, seed)


class WideningSampler(Sampler):
    """`WideningPolicy` in one training; it remembers nothing.

    Args:
        space: The search space.
        seed: Seed of all that is drawn.
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        if not space.nucleus:
            raise SupernetError(
                f"sampling policy `widening`: space `{space.name}` names no choice to hold at first, expected one",
                hint="choose another `--policy`, for example `uniform`",
            )
        self.space, self.seed = space, seed
        self._columns = [space.columns[name] for name in space.nucleus]
        self._held = np.array(list(space.nucleus.values()), dtype=np.int8)

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """The step's network."""
        generator = step_generator(self.seed, step)
        genotypes = self.space.sample(1, generator)
        is_held = generator.random(len(self._held)) >= (progress - HELD) / (WIDE - HELD)
        genotypes[0, self._columns] = np.where(is_held, self._held, genotypes[0, self._columns])
        (network,) = self.space.decode(self.space.repair(genotypes))
        return (Assignment(network, "labels"),)
