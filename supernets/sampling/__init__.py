"""Which architectures one training step updates; whatever is random about a step comes from (seed, step).

A new policy is one class with `assignments`, or with `begin` where it remembers something, registered here or by
another package as an entry point `nas.sampling_policies`. Where it takes time to make what it draws from, the class has
a method `prepare`, see `prepare_policy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from search_spaces import SearchSpace, UnknownNameError
from supernets.sampling.complexity_aware import ComplexityAwarePolicy
from supernets.sampling.conflict_aware import ConflictAwarePolicy
from supernets.sampling.level_tables import Progress
from supernets.sampling.multi_architecture import MULTI_ARCHITECTURE
from supernets.sampling.policy import (
    AnyPolicy,
    Assignment,
    LearningPolicy,
    Sampler,
    SamplingPolicy,
    begin_sampling,
    draw,
)
from supernets.sampling.sandwich import SandwichPolicy
from supernets.sampling.uniform import UniformPolicy

__all__ = [
    "AnyPolicy",
    "Assignment",
    "ComplexityAwarePolicy",
    "ConflictAwarePolicy",
    "LearningPolicy",
    "Sampler",
    "SamplingPolicy",
    "SandwichPolicy",
    "UniformPolicy",
    "begin_sampling",
    "draw",
    "get_policy",
    "policy_names",
    "prepare_policy",
    "register_policy",
]

_policies: dict[str, AnyPolicy] = {
    "sandwich": SandwichPolicy(),
    "uniform": UniformPolicy(),
    "complexity-aware": ComplexityAwarePolicy(),
    "conflict-aware": ConflictAwarePolicy(),
    **MULTI_ARCHITECTURE,
}


def policy_names() -> list[str]:
    """The names of all policies."""
    return sorted(_all_policies())


def get_policy(name: str) -> AnyPolicy:
    """The policy called ``name``.

    Raises:
        UnknownNameError: There is none.
    """
    policies = _all_policies()
    if name not in policies:
        raise UnknownNameError("sampling policy", name, policies)
    return policies[name]


def register_policy(name: str, policy: AnyPolicy) -> None:
    """Register a policy under ``name``.

    Raises:
        ValueError: The name is taken.
    """
    if name in _all_policies():
        raise ValueError(f"sampling policy `{name}` is registered already")
    _policies[name] = policy


def prepare_policy(policy: AnyPolicy, space: SearchSpace, progress: Progress | None = None) -> None:
    """Make what a policy draws from and that takes time, so that progress can be told; without it training does so.

    Args:
        policy: The policy.
        space: That it samples.
        progress: Called with how much is done and how much there is to do; not called where there is nothing to make.

    Raises:
        SupernetError: The space has nothing to draw from.
    """
    prepare = getattr(policy, "prepare", None)
    if prepare is not None:
        prepare(space, progress)


def _all_policies() -> Mapping[str, AnyPolicy]:
    plugins = {p.name: p for p in entry_points(group="nas.sampling_policies") if p.name not in _policies}
    return {**{name: plugin.load() for name, plugin in plugins.items()}, **_policies}
