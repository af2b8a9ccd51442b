"""All networks of a step from one complexity level, neighbouring steps from neighbouring levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from search_spaces import Architecture, SearchSpace
from supernets.sampling.level_tables import Progress
from supernets.sampling.levels import Level, levels_of
from supernets.sampling.policy import Assignment, Sampler, SamplingPolicy, step_generator

DRAWN = 3
LEVEL_THROUGHPUT_STEPS = 400
"""Levels cost very different amounts, and a walk over eight of them takes about 40 steps to forget where it was."""
_WALK_STREAM = 1
_BLOCK = 1024


class ComplexityAwarePolicy(SamplingPolicy):
    """Three networks of the step's complexity level on labels, then the level's smallest one on their mean outputs.

    The level walks: with each step, and once more between epochs, it moves by -1, 0 or +1 with equal probability, and
    stays where the move would leave the range. The smallest network learns by adaptive alpha-divergence.

    Source: complexity-aware sampling and multiple smallest networks of Tang et al., "ElasticViT: Conflict-aware
    Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile Devices", ICCV 2023, arXiv 2303.09730.
    Deviations: without teachers the drawn networks learn from labels, because the two of the paper are none that a user
    has for images of any kind; a step's losses are averaged, not summed, as for every policy here; random numbers come
    from the seed and the step, where the reference uses the step alone.
    """

    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> ComplexityAwareSampler:
        """A sampler at the lowest level."""
        return ComplexityAwareSampler(space, seed)

    def prepare(self, space: SearchSpace, progress: Progress | None = None) -> None:
        """Make the tables of the space's levels, see `Levels.prepare`."""
        levels_of(space).prepare(progress)


class ComplexityAwareSampler(Sampler):
    """`ComplexityAwarePolicy` in one training.

    Args:
        space: The search space.
        seed: Seed of all that is drawn.
    """

    throughput_steps = LEVEL_THROUGHPUT_STEPS

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space, self.seed = space, seed
        self.levels = levels_of(space)
        self.epoch = 0

    def before_epoch(self, epoch: int, epochs: float, supernet: object, moments: object, average: object) -> None:
        """Move once more, which is to be one step further on the walk."""
        self.epoch = epoch

    def level_of(self, step: int) -> int:
        """The number of the level that a step of the epoch is in."""
        return walk(self.seed, step + self.epoch, len(self.levels))

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """The drawn networks, then the smallest."""
        level = self.level_of(step)
        drawn = self.levels.draw(level, DRAWN, step_generator(self.seed, step))
        return with_smallest(drawn, self.levels[level])

    def state(self) -> dict[str, Any]:
        """The number of the epoch."""
        return {"epoch": self.epoch}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Remember what `state` gave; trainings of old releases did not count epochs."""
        self.epoch = state.get("epoch", 0)


def with_smallest(drawn: list[Architecture], level: Level) -> tuple[Assignment, ...]:
    """The step's networks on labels, then the level's smallest one on the mean of their outputs."""
    return (*(Assignment(network, "labels") for network in drawn), Assignment(level.smallest, "mean"))


def walk(seed: int, move: int, levels: int) -> int:
    """The level after some moves: level 0 before the first, which step 0 makes; moves depend on the seed alone."""
    visited = _visited.setdefault((seed, levels), bytearray())
    while len(visited) <= move:
        block = np.random.SeedSequence([seed, len(visited) // _BLOCK, _WALK_STREAM])
        level = visited[-1] if visited else 0
        for change in np.random.Generator(np.random.PCG64(block)).integers(-1, 2, size=_BLOCK).tolist():
            level = min(max(level + change, 0), levels - 1)
            visited.append(level)
    return visited[move]


_visited: dict[tuple[int, int], bytearray] = {}
"""The levels after all moves so far, by seed and number of levels."""
