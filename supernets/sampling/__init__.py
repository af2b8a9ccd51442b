"""Which architectures one training step updates; whatever is random about a step comes from (seed, step).

A new policy is a `StatelessPolicy`, or a `SamplingPolicy` where it remembers something, registered here or by another
package as an entry point `nas.sampling_policies`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from search_spaces import UnknownNameError
from supernets.sampling.complexity_aware import ComplexityAwarePolicy
from supernets.sampling.conflict_aware import ConflictAwarePolicy
from supernets.sampling.multi_architecture import MULTI_ARCHITECTURE
from supernets.sampling.policy import Assignment, Sampler, SamplingPolicy, StatelessPolicy, draw
from supernets.sampling.sandwich import SandwichPolicy
from supernets.sampling.uniform import UniformPolicy

__all__ = [
    "Assignment",
    "ComplexityAwarePolicy",
    "ConflictAwarePolicy",
    "Sampler",
    "SamplingPolicy",
    "SandwichPolicy",
    "StatelessPolicy",
    "UniformPolicy",
    "draw",
    "get_policy",
    "policy_names",
    "register_policy",
]

_policies: dict[str, SamplingPolicy] = {
    "sandwich": SandwichPolicy(),
    "uniform": UniformPolicy(),
    "complexity-aware": ComplexityAwarePolicy(),
    "conflict-aware": ConflictAwarePolicy(),
    **MULTI_ARCHITECTURE,
}


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
