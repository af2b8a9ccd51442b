"""What a sampling policy is: stateless, or one that learns from how well the networks do.

A stateless policy is a function of (seed, step). A learning one begins a `Sampler`, which is told the scores of the
networks that it chose and whose state goes to JSON, so that a resumed training goes on to the same bits.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from search_spaces import Architecture, SearchSpace
from supernets.training.losses import Target

if TYPE_CHECKING:
    from torch import Tensor

    from supernets.supernet import Supernet

PACE_STEPS = 20
"""Unless a policy says otherwise: enough to even out what machines do."""


@dataclass(frozen=True)
class Share:
    """A group of the images of a batch: images ``index::count``.

    Attributes:
        index: Of the group, from 0.
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


class SamplingPolicy(Protocol):
    """Chooses the architectures of every step from the step alone.

    A policy whose steps cost very different amounts, in runs of dear and cheap ones, has an attribute ``pace_steps``:
    the number of steps whose mean time says how fast training goes.
    """

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """What to train in ``step``, in order: the same for the same arguments; the first learns from labels."""
        ...


class Sampler(Protocol):
    """Chooses the architectures of one training, step after step."""

    @property
    def learns(self) -> bool:
        """Whether scores make a difference."""
        ...

    @property
    def pace_steps(self) -> int:
        """The number of steps whose mean time says how fast training goes."""
        ...

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """What to train in ``step``, when the share ``progress`` of the training is done; the first from labels."""
        ...

    def observe(self, architecture: Architecture, score: float) -> None:
        """Take note of an architecture's score: minus its cross-entropy on the labels of the step's images."""
        ...

    def stale(self) -> tuple[Architecture, ...]:
        """Architectures whose scores should be taken again on the step's images, without training them."""
        ...

    def state(self) -> dict[str, Any]:
        """What the sampler remembers, JSON-ready; empty for nothing."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Remember what `state` gave."""
        ...


@runtime_checkable
class PreparedPolicy(Protocol):
    """A policy that has something to make before a training, which it keeps for later ones."""

    def prepare(self, space: SearchSpace, progress: Callable[[int, int], None] | None = None) -> None:
        """Make it; ``progress`` is told pieces done and pieces there are."""
        ...


@runtime_checkable
class PreparesEpochs(Protocol):
    """A sampler that changes something before every epoch."""

    def before_epoch(
        self,
        epoch: int,
        epochs: float,
        supernet: Supernet,
        moments: Mapping[str, Mapping[str, Tensor]],
        average: Mapping[str, Tensor] | None,
    ) -> None:
        """Called before the first step of every epoch.

        Args:
            epoch: From 0.
            epochs: Of the whole training.
            supernet: The shared tensors, which may be changed in place.
            moments: The optimiser's state by parameter, which may be changed in place: ``exp_avg`` and ``exp_avg_sq``.
            average: The average of the shared tensors by name, where one is kept; it must follow them when they are
                put into another order.
        """
        ...


@runtime_checkable
class LearningPolicy(Protocol):
    """A policy that begins a sampler of its own, for example because it chooses by how well networks did.

    One that deals images to architectures has a third argument ``batch_size``: the number of images that one process
    passes through the networks at once.
    """

    def begin(self, space: SearchSpace, seed: int) -> Sampler:
        """A sampler that remembers nothing yet."""
        ...


AnyPolicy = SamplingPolicy | LearningPolicy


@dataclass(frozen=True)
class StatelessSampler:
    """A stateless policy as the sampler of one training."""

    policy: SamplingPolicy
    space: SearchSpace
    seed: int
    learns = False

    @property
    def pace_steps(self) -> int:
        """The policy's, or the usual number."""
        return int(getattr(self.policy, "pace_steps", PACE_STEPS))

    def assign(self, step: int, progress: float) -> tuple[Assignment, ...]:
        """What the policy trains in ``step``."""
        return self.policy.assignments(self.space, self.seed, step)

    def observe(self, architecture: Architecture, score: float) -> None:
        """Nothing is learnt."""

    def stale(self) -> tuple[Architecture, ...]:
        """No score is kept."""
        return ()

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing is remembered."""


def begin_sampling(policy: AnyPolicy, space: SearchSpace, seed: int, batch_size: int | None = None) -> Sampler:
    """The sampler of a training by either kind of policy.

    Args:
        policy: The policy.
        space: The search space.
        seed: Of all that is drawn.
        batch_size: Images that one process passes through the networks at once.
    """
    if not isinstance(policy, LearningPolicy):
        return StatelessSampler(policy, space, seed)
    if "batch_size" in inspect.signature(policy.begin).parameters:
        return policy.begin(space, seed, batch_size=batch_size)  # type: ignore[call-arg]
    return policy.begin(space, seed)


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The random numbers of one step, which depend on ``seed`` and ``step`` alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))


def draw(space: SearchSpace, count: int, seed: int, step: int) -> list[Architecture]:
    """``count`` architectures of the space that depend on ``seed`` and ``step`` alone."""
    return space.decode(space.sample(count, step_generator(seed, step)))
