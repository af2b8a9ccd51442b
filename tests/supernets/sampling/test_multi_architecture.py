"""Multi-architectural sampling: which architectures a step has, and its two executions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from search_spaces import SearchSpace, get_space
from supernets.sampling.multi_architecture import (
    MULTI_ARCHITECTURE,
    MultiArchitecturePolicy,
    MultiArchitectureSampler,
    deal,
    enabled_values,
    largest_first,
)
from supernets.sampling.policy import Share

SPACES = ["asvit-mini", "elastic-mini", "resnas-mini", "resnas-tiny"]


def sampler(space: SearchSpace, groups: int = 4, **settings: object) -> MultiArchitectureSampler:
    return MultiArchitecturePolicy(images_per_group=2, **settings).begin(space, 0, batch_size=2 * groups)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choices", "counts"),
    [(7, (1, 2, 3, 4, 5, 7)), (5, (1, 1, 2, 3, 3, 5)), (4, (1, 1, 2, 2, 3, 4))],
)
def test_choices_warm_up_in_a_quarter_of_the_epochs(choices: int, counts: tuple[int, ...]) -> None:
    """As published: 30 of 120 epochs; 7 widths of feed-forward networks, 5 of embeddings, 4 entries of presence."""
    epochs = (0, 5, 10, 15, 20, 30)
    assert tuple(enabled_values(choices, epoch / 120, 0.25) for epoch in epochs) == counts


def test_warm_up_to_the_epoch() -> None:
    assert [enabled_values(5, epoch / 120, 0.25) for epoch in (7, 8, 29, 119, 120)] == [1, 2, 4, 5, 5]
    assert enabled_values(5, 0.0, 0.0) == 5


def test_hidden_channels_of_a_batch_repeat_with_the_number_of_groups_and_differ_within_it() -> None:
    """Batch 8, two images each: the published check."""
    space = get_space("resnas-tiny")
    assignments = sampler(space).assign(step=3, progress=0.5)
    assert [assignment.share for assignment in assignments] == [Share(group, 4) for group in range(4)]
    there = [dict(a.architecture.settings) for a in assignments]
    for layer in ("stage1.0", "stage2.2", "stage3.4"):
        assert len({values[f"{layer}.hidden"] for values in there}) == 4
        assert sorted(values[f"{layer}.heads"] for values in there) == list(
            space.choices[space.columns[f"{layer}.heads"]].values
        )


@pytest.mark.parametrize("name", SPACES)
def test_training_starts_from_the_largest_network_and_ends_with_all_values(name: str) -> None:
    space = get_space(name)
    drawn = sampler(space)
    assert {a.architecture for a in drawn.assign(0, 0.0)} == {space.largest}
    genotypes = space.encode([a.architecture for step in range(60) for a in drawn.assign(step, 0.25)])
    for column, choice in enumerate(space.choices):
        assert set(genotypes[:, column].tolist()) == set(range(len(choice.values))), choice.name


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("mode", ["multi", "hybrid", "single"])
def test_a_step_depends_on_its_number_alone_and_is_valid(name: str, mode: str) -> None:
    space = get_space(name)
    drawn = sampler(space, mode=mode)
    steps = {step: drawn.assign(step, 0.6) for step in range(10)}
    for step in reversed(range(10)):
        assert drawn.assign(step, 0.6) == steps[step]
    architectures = [a.architecture for assignments in steps.values() for a in assignments]
    assert space.is_valid(space.encode(architectures)).all()
    assert len(set(architectures)) == len(architectures) == (10 if mode == "single" else 40)
    assert all(a.target == "labels" for assignments in steps.values() for a in assignments)
    assert all((a.share is None) == (mode == "single") for assignments in steps.values() for a in assignments)


def test_blocks_are_left_out_from_half_of_the_warm_up_on_and_then_half_of_the_time() -> None:
    space = get_space("resnas-tiny")
    columns = [column for name, column in space.columns.items() if name.endswith(".present")]
    drawn = sampler(space)

    def present(progress: float, steps: int) -> float:
        networks = [a.architecture for step in range(steps) for a in drawn.assign(step, progress)]
        return float(space.encode(networks)[:, columns].mean())

    assert present(19.9 / 120, 10) == 1
    assert present(20 / 120, 10) == pytest.approx(2 / 3, abs=0.1)
    assert present(30 / 120, 10) == 0.5, "four groups are dealt two that have the block and two that have not"


def test_widths_of_hybrid_sampling_are_those_of_the_whole_batch() -> None:
    space = get_space("resnas-tiny")
    settings = [dict(a.architecture.settings) for a in sampler(space, mode="hybrid").assign(2, 1.0)]
    for name in space.columns:
        if name.endswith(".width"):
            assert len({values[name] for values in settings}) == 1
        elif name.endswith("0.hidden"):
            assert len({values[name] for values in settings}) == 4


def test_dimensions_are_independent() -> None:
    """Given the width of one layer, that of another is still uniform."""
    space = get_space("resnas-tiny")
    first, second = (space.columns[f"stage1.{layer}.heads"] for layer in (0, 2))
    networks = [a.architecture for step in range(400) for a in sampler(space).assign(step, 1.0)]
    pairs = Counter(map(tuple, space.encode(networks)[:, [first, second]].tolist()))
    assert len(pairs) == 16
    assert min(pairs.values()) > 60


def test_rows_are_dealt_without_replacement_as_far_as_they_go() -> None:
    values = np.arange(3, dtype=np.int8)
    for seed in range(20):
        generator = np.random.default_rng(seed)
        assert len(set(deal(values, 3, generator).tolist())) == 3
        assert len(set(deal(values, 2, generator).tolist())) == 2
        assert max(Counter(deal(values, 7, generator).tolist()).values()) <= 3
        assert deal(values, 7, generator).shape == (7,)


def test_values_go_from_the_largest_down_and_presence_has_each_twice() -> None:
    space = get_space("resnas-tiny")
    choices = {choice.name: choice for choice in space.choices}
    assert largest_first(choices["stage1.1.present"]).tolist() == [1, 1, 0, 0]
    assert largest_first(choices["stage1.1.heads"]).tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(("batch_size", "groups"), [(None, 2), (1, 1), (2, 2), (32, 2), (128, 2), (200, 3), (1024, 16)])
def test_groups_of_a_batch(batch_size: int | None, groups: int) -> None:
    begun = MULTI_ARCHITECTURE["multi-architecture"].begin(get_space("resnas-mini"), 0, batch_size)
    assert len(begun.assign(0, 0.0)) == groups
