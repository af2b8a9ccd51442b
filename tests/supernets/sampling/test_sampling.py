"""Sampling policies: what a step of a stateless one trains depends on (seed, step) alone."""

from __future__ import annotations

import pytest

from search_spaces import SearchSpace, UnknownNameError, get_space
from supernets.sampling import (
    Assignment,
    SandwichPolicy,
    StatelessPolicy,
    UniformPolicy,
    get_policy,
    policy_names,
    register_policy,
)


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return get_space("elastic-mini")


def test_sandwich_trains_the_largest_on_labels_and_the_others_on_its_outputs(space: SearchSpace) -> None:
    first, second, *drawn = get_policy("sandwich").assignments(space, seed=0, step=7)
    assert first == Assignment(space.largest, "labels")
    assert second == Assignment(space.smallest, "first")
    assert [assignment.target for assignment in drawn] == ["first", "first"]
    assert len({assignment.architecture for assignment in (first, second, *drawn)}) == 4


def test_uniform_trains_drawn_architectures_on_labels(space: SearchSpace) -> None:
    assignments = UniformPolicy(count=3).assignments(space, seed=0, step=0)
    assert [assignment.target for assignment in assignments] == ["labels"] * 3
    assert space.is_valid(space.encode([assignment.architecture for assignment in assignments])).all()


def test_policies() -> None:
    assert {"complexity-aware", "conflict-aware", "sandwich", "uniform"} <= set(policy_names())


@pytest.mark.parametrize("name", ["sandwich", "uniform"])
def test_stateless_policies_start_from_labels(name: str, space: SearchSpace) -> None:
    policy = get_policy(name)
    assert isinstance(policy, StatelessPolicy)
    steps = {step: policy.assignments(space, 5, step) for step in range(20)}
    for step in reversed(range(20)):
        assert policy.assignments(space, 5, step) == steps[step]
        assert steps[step][0].target == "labels"
    assert len(set(steps.values())) > 15
    assert policy.assignments(space, 6, 3) != steps[3]


def test_drawn_architectures_use_every_value_of_every_choice(space: SearchSpace) -> None:
    drawn = [a.architecture for step in range(60) for a in SandwichPolicy(4).assignments(space, 0, step)[2:]]
    genotypes = space.encode(drawn)
    for column, choice in enumerate(space.choices):
        assert set(genotypes[:, column].tolist()) == set(range(len(choice.values))), choice.name


def test_an_unknown_policy_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="unknown sampling policy: `sandwhich`") as caught:
        get_policy("sandwhich")
    assert caught.value.hint == "did you mean `sandwich`?"


def test_names_are_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from supernets import sampling

    monkeypatch.setattr(sampling.POLICIES, "_registered", {})
    register_policy("five", UniformPolicy(5))
    assert get_policy("five") == UniformPolicy(5)
    with pytest.raises(ValueError, match="`five` is registered already"):
        register_policy("five", UniformPolicy(6))
