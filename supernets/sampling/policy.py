"""What a sampling policy is: stateless, or one that learns from how well the networks do.

A stateless policy is a function of (seed, step). A learning one begins a `Sampler`, which is told the scores of the
networks that it chose and whose state goes to JSON, so that a resumed training goes on to the same bits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search_spaces import Architecture, SearchSpace
from supernets.sampling.level_tables import Progress
from supernets.training.losses import Target

if TYPE_CHECKING:
    from torch import Tensor

    from supernets.supernet import Supernet

THROUGHPUT_STEPS = 20
"""Enough steps to even out what machines do."""


@dataclass(frozen=True)
class Share:
    """A group of the images of a batch: images ``index::count``.

    Attributes:
        index: Number of the group, from 0.
        count: Number of groups.
    """

    index: int
    count: int


@dataclass(frozen=True)
class Assignment:
    """An architecture of one step and what it learns from.

    Attributes:
        architecture: The network.
        target: The labels, the soft outputs of the step's first network, or the mean of those of all before it, see
            `supernets.training.losses.target_loss`.
        share: The images that it sees; None for all. In a step all architectures have shares or none has.
    """

    architecture: Architecture
    target: Target
    share: Share | None = None


class Sampler(ABC):
    """Chooses the architectures of one training, step after step.

    Attributes:
        learns: Whether scores make a difference.
        reorders: Whether `before_epoch` may put shared tensors into another order.
        throughput_steps: Number of steps whose mean time says how fast training goes; more where steps cost very
            different amounts, in runs of dear and cheap ones.
    """

    learns: bool = False
    reorders: bool = False
    throughput_steps: int = THROUGHPUT_STEPS

    @abstractmethod
    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """What to train in ``step``, when the share ``progress`` of the training is done; the first from labels."""

    def observe(self, architecture: Architecture, score: float) -> None:  # noqa: B027 most samplers do not learn
        """Take note of an architecture's score: minus its cross-entropy on the labels of the step's images."""

    def stale(self) -> tuple[Architecture, ...]:
        """Architectures whose scores should be taken again on the step's images, without training them."""
        return ()

    def state(self) -> dict[str, Any]:
        """What the sampler remembers, JSON-ready; empty for nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027 most samplers remember nothing
        """Remember what `state` gave."""

    def before_epoch(  # noqa: B027 most samplers change nothing
        self,
        epoch: int,
        epochs: float,
        supernet: Supernet,
        moments: Mapping[str, Mapping[str, Tensor]],
        average: Mapping[str, Tensor] | None,
    ) -> None:
        """Called before the first step of every epoch.

        Args:
            epoch: Number of the epoch that begins, from 0.
            epochs: Number of epochs of the whole training.
            supernet: The shared tensors, which may be changed in place.
            moments: The optimiser's state by parameter, which may be changed in place: ``exp_avg`` and ``exp_avg_sq``.
            average: The average of the shared tensors by name, where one is kept; it must follow them when they are
                put into another order.
        """


class SamplingPolicy(ABC):
    """Says which architectures a training updates, by a sampler for each training."""

    @abstractmethod
    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> Sampler:
        """A sampler that remembers nothing yet.

        Args:
            space: The search space.
            seed: Seed of all that is drawn.
            batch_size: Images that one process passes through the networks at once; None where that is not known.
        """

    def prepare(self, space: SearchSpace, progress: Progress | None = None) -> None:  # noqa: B027 most need nothing
        """Make what is drawn from and takes time, so that its progress can be told; without it training does so.

        Args:
            space: The space that is sampled.
            progress: Called with the number of pieces done and of pieces there are; not called where there are none.

        Raises:
            SupernetError: The space has nothing to draw from.
        """


class StatelessPolicy(SamplingPolicy):
    """A policy that chooses the architectures of every step from the step alone."""

    @abstractmethod
    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """What to train in ``step``, in order: the same for the same arguments; the first learns from labels."""

    def begin(self, space: SearchSpace, seed: int, batch_size: int | None = None) -> StatelessSampler:
        """A sampler that remembers nothing at all."""
        return StatelessSampler(self, space, seed)


@dataclass(frozen=True)
class StatelessSampler(Sampler):
    """A stateless policy as the sampler of one training."""

    policy: StatelessPolicy
    space: SearchSpace
    seed: int

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """What the policy trains in ``step``."""
        return self.policy.assignments(self.space, self.seed, step)


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step, which depend on ``seed`` and ``step`` alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))


def draw(space: SearchSpace, count: int, seed: int, step: int) -> list[Architecture]:
    """``count`` architectures of the space that depend on ``seed`` and ``step`` alone."""
    return space.decode(space.sample(count, step_generator(seed, step)))
