"""Fair sampling: every kind of every unordered choice equally often in each step."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces import get_space
from supernets import SupernetError
from supernets.sampling import get_policy
from supernets.sampling.policy import Share


def test_every_choice_deals_all_of_its_kinds_in_each_step() -> None:
    space = get_space("mixers-mini")
    sampler = get_policy("fair").begin(space, seed=0, batch_size=32)
    free = ("stem.kind", "S1.ffn", "S2.entry", "S3.mixer", "S3.ffn")  # which no rule touches
    for step in range(10):
        assignments = sampler.assign(step, 0.0)
        assert len(assignments) == 10
        assert {(a.target, a.share) for a in assignments} == {("labels", None)}
        genotypes = space.encode([a.architecture for a in assignments])
        assert space.is_valid(genotypes).all()
        for name in free:
            kinds = len(space.choices[space.columns[name]].values)
            counts = np.bincount(genotypes[:, space.columns[name]], minlength=kinds)
            assert set(counts.tolist()) <= {10 // kinds, -(-10 // kinds)}, (step, name)
    assert sampler.assign(3, 0.0) == get_policy("fair").begin(space, seed=0, batch_size=32).assign(3, 0.5)
    assert sampler.assign(3, 0.0) != sampler.assign(4, 0.0)


def test_large_batches_are_divided() -> None:
    sampler = get_policy("fair").begin(get_space("mixers-mini"), seed=0, batch_size=80)
    assert [a.share for a in sampler.assign(0, 0.0)] == [Share(number, 10) for number in range(10)]


def test_spaces_without_kinds_are_refused() -> None:
    with pytest.raises(SupernetError, match="no choice of space `elastic-mini` is among kinds"):
        get_policy("fair").begin(get_space("elastic-mini"), seed=0)
