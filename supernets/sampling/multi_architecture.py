"""Several architectures per step, each on its own share of the images, and choices that warm up from the largest.

Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642.

Legend of array suffixes: g groups of images, c choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from search_spaces import Choice, Genotypes, SearchSpace
from supernets.sampling.policy import Assignment, Sampler, SamplingPolicy, Share, step_generator

if TYPE_CHECKING:
    from torch import Tensor

    from supernets.rewiring import Moments
    from supernets.supernet import Supernet

Mode = Literal["multi", "hybrid", "single"]
Indices = npt.NDArray[np.int8]

PRESENCE = (0, 1)
"""Values of a choice that says whether a block is there."""
WIDTH = "width"
"""Last part of the names of choices that hybrid sampling draws once for all images."""


@dataclass(frozen=True)
class MultiArchitecturePolicy(SamplingPolicy):
    """Architectures drawn choice by choice, so that those of a step differ as much as they can; all on labels.

    Only the first values of a choice, largest first, are drawn at the start of a training, and all of them once the
    share ``warmup`` of it is done. As many rows as there are groups of images, or a few more, cycle through the values
    that are enabled; every choice shuffles its own rows and deals them to the groups, so with no more groups
    than values all groups differ in every choice. A choice whether a block is there has each of its two values twice:
    blocks are left out from half of the warm-up on. What is drawn is put right by the rules of the space.

    While choices warm up, heads and hidden units are sorted by importance at the start of every epoch, see
    `supernets.rewiring`.

    Source: Liao, Karaman and Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642, where
    120 epochs warm up in 30 and 64 images make a group. Deviations: values are enabled as soon as they are due, not at
    the start of the next epoch; a batch too small for two groups of 64 is split in two.

    Attributes:
        mode: ``multi``; ``single``, one architecture for all images; or ``hybrid``, widths drawn once for all images,
            everything else as in ``multi``.
        images_per_group: Images of an architecture.
        warmup: Share of the training in which values are enabled; 0 enables them at once.
        rewires: Whether heads and hidden units are sorted.
        moves_moments: Whether the optimiser's moments are sorted along, which the reference does not do.
    """

    mode: Mode = "multi"
    images_per_group: int = 64
    warmup: float = 0.25
    rewires: bool = True
    moves_moments: bool = False

    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> MultiArchitectureSampler:
        """A sampler for batches of one size; without one it deals with two groups."""
        groups = 2 if batch_size is None else max(min(2, batch_size), batch_size // self.images_per_group)
        return MultiArchitectureSampler(self, space, seed, 1 if self.mode == "single" else groups)


class MultiArchitectureSampler(Sampler):
    """`MultiArchitecturePolicy` in one training; it remembers nothing.

    Args:
        policy: The policy.
        space: The search space.
        seed: Seed of all that is drawn.
        groups: Number of architectures per step.
    """

    def __init__(self, policy: MultiArchitecturePolicy, space: SearchSpace, seed: int, groups: int) -> None:
        self.policy, self.space, self.seed, self.groups = policy, space, seed, groups
        self.reorders = policy.rewires
        self._values = [largest_first(choice) for choice in space.choices]
        shared = [policy.mode == "hybrid" and choice.name.rpartition(".")[2] == WIDTH for choice in space.choices]
        self._groups = [1 if is_shared else groups for is_shared in shared]

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """The step's architectures, each with its share of the images."""
        generator = step_generator(self.seed, step)
        genotypes_gc: Genotypes = np.empty((self.groups, len(self._values)), dtype=np.int8)
        for column, (values, groups) in enumerate(zip(self._values, self._groups, strict=True)):
            warmup = self.policy.warmup if self.space.choices[column].is_ordered else 0.0
            enabled = enabled_values(len(values), progress, warmup)
            genotypes_gc[:, column] = deal(values[:enabled], groups, generator)
        networks = self.space.decode(self.space.repair(genotypes_gc))
        if self.groups == 1:
            return (Assignment(networks[0], "labels"),)
        return tuple(Assignment(network, "labels", Share(g, self.groups)) for g, network in enumerate(networks))

    def before_epoch(
        self,
        epoch: int,
        epochs: float,
        supernet: Supernet,
        moments: Moments,
        average: Mapping[str, Tensor] | None,
    ) -> None:
        """Sort heads and hidden units while choices warm up, in the first epoch after that for the last time.

        Args:
            epoch: Number of the epoch that begins, from 0.
            epochs: Number of epochs of the whole training.
            supernet: The supernet, sorted in place.
            moments: The optimiser's state by parameter.
            average: An average of the shared tensors by name, which always moves along with them.
        """
        if not self.policy.rewires or epoch > self.policy.warmup * epochs:
            return
        from supernets.rewiring import by_moment, rewire

        followers = by_moment(moments) if self.policy.moves_moments else []
        rewire(supernet, followers if average is None else [*followers, average])


def largest_first(choice: Choice) -> Indices:
    """Indices of the values of a choice from the largest down; each twice where they say whether a block is there."""
    indices = np.arange(len(choice.values) - 1, -1, -1, dtype=np.int8)
    return np.repeat(indices, 2) if choice.values == PRESENCE else indices


def enabled_values(count: int, progress: float, warmup: float) -> int:
    """How many of ``count`` values are enabled when the share ``progress`` of the training is done."""
    if warmup == 0:
        return count
    # A hair more, so that rounding of the share delays nothing: 10 of 120 epochs are 1 / 3 of a quarter.
    return min(count, 1 + int(progress / warmup * (count - 1) + 1e-9))


def deal(values: Indices, groups: int, generator: np.random.Generator) -> Indices:
    """A value for each group, from shuffled rows that cycle through the values as often as is needed for all groups."""
    rows = np.tile(values, -(-groups // len(values)))
    return generator.permutation(rows)[:groups]


MULTI_ARCHITECTURE = {
    "multi-architecture": MultiArchitecturePolicy(),
    "hybrid-architecture": MultiArchitecturePolicy("hybrid"),
    "single-architecture": MultiArchitecturePolicy("single"),
}
"""The policies of this kind by name."""
