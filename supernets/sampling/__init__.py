"""Which architectures one training step updates; whatever is random about a step comes from (seed, step).

A new policy is a `StatelessPolicy`, or a `SamplingPolicy` where it remembers something, registered here or by another
package as an entry point `nas.sampling_policies`.
"""

from __future__ import annotations

from search_spaces.plugins import Registry
from supernets.sampling.complexity_aware import ComplexityAwarePolicy
from supernets.sampling.conflict_aware import ConflictAwarePolicy
from supernets.sampling.fair import FairPolicy
from supernets.sampling.multi_architecture import MULTI_ARCHITECTURE
from supernets.sampling.policy import Assignment, Sampler, SamplingPolicy, StatelessPolicy, draw
from supernets.sampling.sandwich import SandwichPolicy
from supernets.sampling.uniform import UniformPolicy
from supernets.sampling.widening import WideningPolicy

__all__ = [
    "Assignment",
    "ComplexityAwarePolicy",
    "ConflictAwarePolicy",
    "FairPolicy",
    "Sampler",
    "SamplingPolicy",
    "SandwichPolicy",
    "StatelessPolicy",
    "UniformPolicy",
    "WideningPolicy",
    "draw",
    "get_policy",
    "policy_names",
    "register_policy",
]

POLICIES: Registry[SamplingPolicy] = Registry(
    "sampling policy",
    "nas.sampling_policies",
    {
        "sandwich": SandwichPolicy(),
        "uniform": UniformPolicy(),
        "complexity-aware": ComplexityAwarePolicy(),
        "conflict-aware": ConflictAwarePolicy(),
        "fair": FairPolicy(),
        "widening": WideningPolicy(),
        **MULTI_ARCHITECTURE,
    },
)
get_policy = POLICIES.get
register_policy = POLICIES.register


def policy_names() -> list[str]:
    """The names of all policies."""
    return sorted(POLICIES.names())
