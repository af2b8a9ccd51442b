"""Widening: mixers alone at first, everything at last."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces import Genotypes, get_space
from supernets import SupernetError
from supernets.sampling import get_policy


def drawn(progress: float, steps: int = 300) -> Genotypes:
    space = get_space("mixers-mini")
    sampler = get_policy("widening").begin(space, seed=0)
    networks = [sampler.assign(step, progress)[0] for step in range(steps)]
    assert {(each.target, each.share) for each in networks} == {("labels", None)}
    return space.encode([each.architecture for each in networks])


def test_choices_of_the_nucleus_are_held_at_first_and_free_at_last() -> None:
    space = get_space("mixers-mini")
    columns = [space.columns[name] for name in space.nucleus]
    held = np.array(list(space.nucleus.values()))
    assert {name.rpartition(".")[2] for name in space.columns.keys() - space.nucleus.keys()} == {"mixer", "mixer_odd"}
    early, late = drawn(0.2), drawn(0.8)
    kinds = early[:, space.columns["S2.mixer"]]
    assert set(kinds.tolist()) == set(range(10))
    assert (early[:, columns] == held).mean() > 0.97  # no positions where nothing mixes
    assert (late == space.sample(300, np.random.default_rng(0))).mean() < 0.7
    middle = (drawn(0.5)[:, columns] == held).mean()
    assert (late[:, columns] == held).mean() < middle < (early[:, columns] == held).mean()
    entry = late[:, space.columns["S2.entry"]]
    assert np.bincount(entry).min() > 60  # 100 of each on average, standard error 8
    assert all(space.is_valid(each).all() for each in (early, late))


def test_a_step_depends_on_the_seed_and_the_progress_alone() -> None:
    np.testing.assert_array_equal(drawn(0.5, 20), drawn(0.5, 20))


def test_spaces_that_name_nothing_to_hold_are_refused() -> None:
    with pytest.raises(SupernetError, match="space `elastic-mini` names no choice to hold at first"):
        get_policy("widening").begin(get_space("elastic-mini"), seed=0)
