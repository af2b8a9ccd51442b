"""Which architectures one training step updates. Policies are stateless: a step's architectures come from (seed, step).

A new policy is one class with `assignments`, registered here or by another package as an entry point
`nas.sampling_policies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal, Protocol

import numpy as np

from search_spaces import Architecture, SearchSpace, UnknownNameError


@dataclass(frozen=True)
class Assignment:
    """An architecture of one step and what it learns from: the labels, or the soft outputs of the step's first one."""

    architecture: Architecture
    target: Literal["labels", "first"]


class SamplingPolicy(Protocol):
    """Chooses the architectures of every step."""

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """What to train in ``step``, in order: the same for the same arguments; the first learns from labels."""
        ...


@dataclass(frozen=True)
class UniformPolicy:
    """Architectures drawn by the space, all on labels.

    Source: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020,
    arXiv 1904.00420.
    """

    count: int = 1

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """``count`` drawn architectures."""
        return tuple(Assignment(drawn, "labels") for drawn in draw(space, self.count, seed, step))


@dataclass(frozen=True)
class SandwichPolicy:
    """The largest architecture on labels; the smallest and drawn ones on the soft outputs of the largest.

    Source: sandwich rule of Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
    ICCV 2019, arXiv 1903.05134; with two drawn architectures as in BigNAS, ECCV 2020, arXiv 2003.11142.
    """

    drawn: int = 2

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """The largest, the smallest, then the drawn architectures."""
        others = (space.smallest, *draw(space, self.drawn, seed, step))
        return (Assignment(space.largest, "labels"), *(Assignment(other, "first") for other in others))


def draw(space: SearchSpace, count: int, seed: int, step: int) -> list[Architecture]:
    """``count`` architectures of the space that depend on ``seed`` and ``step`` alone."""
    generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))
    return space.decode(space.sample(count, generator))


_policies: dict[str, SamplingPolicy] = {"sandwich": SandwichPolicy(), "uniform": UniformPolicy()}


def policy_names() -> list[str]:
    """The names of all policies."""
    return sorted(_all_policies())


def get_policy(name: str) -> SamplingPolicy:
    """The policy called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    policies = _all_policies()
    if name not in policies:
        raise UnknownNameError("sampling policy", name, policies)
    return policies[name]


def register_policy(name: str, policy: SamplingPolicy) -> None:
    """Register a policy under ``name``.

    Raises:
        ValueError: The name is taken.
    """
    if name in _all_policies():
        raise ValueError(f"sampling policy `{name}` is registered already")
    _policies[name] = policy


def _all_policies() -> Mapping[str, SamplingPolicy]:
    plugins = {p.name: p for p in entry_points(group="nas.sampling_policies") if p.name not in _policies}
    return {**{name: plugin.load() for name, plugin in plugins.items()}, **_policies}
