"""Every registered search space against the contract; a new space is tested by being registered."""

from __future__ import annotations

import time

import numpy as np
import pytest

from nas.testing import SearchSpaceContract
from search_spaces import (
    SearchSpace,
    SearchSpaceError,
    UnknownNameError,
    find_architecture,
    get_space,
    population_cost,
    registry,
    space_names,
)


def registered(name: str) -> type[SearchSpaceContract]:
    class Registered(SearchSpaceContract):
        def make_space(self) -> SearchSpace:
            return get_space(name)

    return Registered


globals().update({f"Test {name}": registered(name) for name in space_names()})


@pytest.mark.parametrize("name", space_names())
def test_named_architectures_are_found_by_the_name_of_their_space(name: str) -> None:
    space = get_space(name)
    for known, architecture in {**space.named, "smallest": space.smallest}.items():
        assert find_architecture(f"{name}/{known}") == (space, architecture)


def test_an_installation_without_entry_points_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "installed", lambda group: {})
    assert get_space("elastic").name == "elastic"
    with pytest.raises(SearchSpaceError, match="no installed package declares a kind") as caught:
        get_space("timm:vit_tiny_patch16_224")
    assert "pip install -e ." in caught.value.hint


def test_unknown_space_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown search space: `elastik`") as caught:
        get_space("elastik")
    assert caught.value.hint == "did you mean `elastic`?"


def test_a_million_genotypes_cost_under_two_seconds() -> None:
    space = get_space("elastic")
    genotypes = space.sample(1_000_000, np.random.default_rng(0))
    population_cost(space, genotypes[:1])
    start = time.thread_time()
    population_cost(space, genotypes)
    assert time.thread_time() - start < 2.0
