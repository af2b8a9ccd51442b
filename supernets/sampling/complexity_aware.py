"""All networks of a step from one complexity level, neighbouring steps from neighbouring levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search_spaces import Architecture, SearchSpace
from supernets.sampling.levels import levels_of
from supernets.sampling.policy import Assignment, step_generator

DRAWN = 3
LEVEL_PACE_STEPS = 400
"""Levels cost very different amounts, and a walk over eight of them takes about 40 steps to forget where it was."""
_WALK_STREAM = 1
_BLOCK = 1024


@dataclass(frozen=True)
class ComplexityAwarePolicy:
    """Three networks of the step's complexity level on labels, then the level's smallest one on their mean outputs.

    The level walks: each step it moves by -1, 0 or +1 with equal probability, and stays where the move would leave the
    range. The smallest network learns by adaptive alpha-divergence.

    Source: complexity-aware sampling and multiple smallest networks of Tang et al., "ElasticViT: Conflict-aware
    Supernet Training for Deploying Fast Vision Transformer on Diverse Mobile Devices", ICCV 2023, arXiv 2303.09730.
    Deviations: the drawn networks learn from labels, because the two teacher networks of the paper are none that a user
    has for images of any kind; the reference's one additional move between epochs is left out, so that levels depend on
    the step alone; a step's losses are averaged, not summed, as for every policy here.
    """

    pace_steps = LEVEL_PACE_STEPS

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """The drawn networks, then the smallest."""
        levels = levels_of(space)
        level = walk(seed, step, len(levels))
        drawn = levels.draw(level, DRAWN, step_generator(seed, step))
        return with_smallest(drawn, levels[level].smallest)


def with_smallest(drawn: list[Architecture], smallest: Architecture) -> tuple[Assignment, ...]:
    """The step's networks on labels, then the smallest one on the mean of their outputs."""
    return (*(Assignment(network, "labels") for network in drawn), Assignment(smallest, "mean"))


def walk(seed: int, step: int, levels: int) -> int:
    """The level of a step: level 0 before the first one, then moves that depend on the seed alone."""
    visited = _visited.setdefault((seed, levels), bytearray())
    while len(visited) <= step:
        block = np.random.SeedSequence([seed, len(visited) // _BLOCK, _WALK_STREAM])
        level = visited[-1] if visited else 0
        for move in np.random.Generator(np.random.PCG64(block)).integers(-1, 2, size=_BLOCK).tolist():
            level = min(max(level + move, 0), levels - 1)
            visited.append(level)
    return visited[step]


_visited: dict[tuple[int, int], bytearray] = {}
"""The levels of all steps so far, by seed and number of levels."""
