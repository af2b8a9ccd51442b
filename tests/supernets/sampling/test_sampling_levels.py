"""Complexity levels: the published ones, those of other spaces, and the walk between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search_spaces import SearchSpace, SingleSpace, get_space
from supernets.sampling import ComplexityAwarePolicy
from supernets.sampling.complexity_aware import walk
from supernets.sampling.levels import Levels, level_macs, levels_of

ELASTIC = get_space("elastic")
PUBLISHED = {100: 37.37, 200: 37.37, 300: 159.92, 400: 159.92, 500: 288.81, 700: 288.81, 900: 288.81, 1200: 288.81}
"""Millions of MACs of each level and of its smallest network, by the reference implementation."""
SPACES = {
    "elastic-mini": get_space("elastic-mini"),
    "asvit": get_space("asvit"),
    "single": SingleSpace(ELASTIC, ELASTIC.named["S1"]),
}
ROWS = 400


@pytest.fixture(scope="module")
def elastic(tmp_path_factory: pytest.TempPathFactory) -> Levels:
    """The published levels with small tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        levels = Levels(ELASTIC)
        levels.prepare(rows=ROWS)
    return levels


def macs_of(space: SearchSpace, *networks: object) -> list[int]:
    return level_macs(space, space.encode(networks)).tolist()  # type: ignore[arg-type]


def test_published_levels_and_their_smallest_networks() -> None:
    levels = levels_of(ELASTIC)
    found = {level.lowest / 1e6: macs_of(ELASTIC, level.smallest)[0] / 1e6 for level in levels.levels}
    assert list(found) == list(PUBLISHED)
    assert list(found.values()) == pytest.approx(list(PUBLISHED.values()), abs=0.01)
    assert {level.highest - level.lowest for level in levels.levels} == {20_000_000}


@pytest.mark.parametrize("index", range(8))
def test_networks_of_a_published_level(index: int, elastic: Levels) -> None:
    level = elastic[index]
    networks = elastic.draw(index, 40, np.random.default_rng(0))
    assert len(set(networks)) > 30
    macs = macs_of(ELASTIC, *networks)
    assert level.lowest <= min(macs) <= max(macs) <= level.highest
    bounded = [name for name in ELASTIC.columns if name.rpartition(".")[2] in ("side", "width", "depth", "v_scale")]
    assert all(network[name] >= level.smallest[name] for network in networks for name in bounded)
    again = elastic.draw(index, 40, np.random.default_rng(0))
    assert networks == again != elastic.draw(index, 40, np.random.default_rng(1))


def test_ratios_are_free_in_every_level(elastic: Levels) -> None:
    """The third smallest network has feed-forward ratio 3 in one stage, which bounds nobody."""
    networks = elastic.draw(3, 200, np.random.default_rng(0))
    assert {network["T2.mlp_ratio"] for network in networks} == {2, 3, 4, 5}
    assert {network["C1.kernel"] for network in networks} == {3, 5}
    assert {network["input.side"] for network in networks} <= {176, 192, 224, 256}


def test_uniform_draws_have_the_published_macs() -> None:
    macs = level_macs(ELASTIC, ELASTIC.sample(10_000, np.random.default_rng(0))) / 1e6
    assert macs.mean() == pytest.approx(561, abs=10)
    assert np.median(macs) == pytest.approx(496, abs=15)
    assert np.quantile(macs, [0.05, 0.95]).tolist() == pytest.approx([181, 1160], rel=0.05)


@pytest.mark.parametrize("name", SPACES)
def test_levels_of_other_spaces(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path))
    space = SPACES[name]
    levels = levels_of(space)
    levels.prepare(rows=ROWS)
    assert levels is levels_of(space)
    assert len(levels) == (1 if name == "single" else 8)
    lowest = [level.lowest for level in levels.levels]
    assert lowest == sorted(set(lowest))
    for index, level in enumerate(levels.levels):
        macs = macs_of(space, *levels.draw(index, 10, np.random.default_rng(0)))
        assert level.lowest <= min(macs) <= max(macs) <= level.highest
        smallest = macs_of(space, level.smallest)[0]
        assert smallest == level.lowest if name == "single" else smallest < 0.8 * level.lowest


def test_later_smallest_networks_of_other_spaces_are_larger() -> None:
    sizes = [macs_of(SPACES["elastic-mini"], level.smallest)[0] for level in levels_of(SPACES["elastic-mini"]).levels]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 2 * sizes[0]


def test_the_walk_moves_by_one_level_at_most_and_visits_all_levels_alike() -> None:
    visited = np.array([walk(3, step, 8) for step in range(200_000)])
    moves = np.diff(visited)
    assert visited[0] in (0, 1)
    assert np.abs(moves).max() == 1
    assert np.bincount(visited, minlength=8) / len(visited) == pytest.approx(1 / 8, abs=0.03)
    for level, stays in enumerate([2 / 3, *[1 / 3] * 6, 2 / 3]):
        assert np.mean(moves[visited[:-1] == level] == 0) == pytest.approx(stays, abs=0.02)
    assert [walk(3, step, 8) for step in (5000, 17, 0)] == visited[[5000, 17, 0]].tolist()
    assert [walk(4, step, 8) for step in range(50)] != visited[:50].tolist()


def test_every_level_is_as_likely_in_the_long_run() -> None:
    """Chances of moves, counted on a walk, leave the uniform distribution as it is."""
    visited = np.array([walk(5, step, 8) for step in range(100_000)])
    counts = np.zeros((8, 8))
    np.add.at(counts, (visited[:-1], visited[1:]), 1)
    chances = counts / counts.sum(axis=1, keepdims=True)
    assert chances == pytest.approx(chances.T, abs=0.03)
    values, vectors = np.linalg.eig(chances.T)
    stationary = np.real(vectors[:, np.argmax(np.real(values))])
    assert stationary / stationary.sum() == pytest.approx(1 / 8, abs=0.03)


def test_all_networks_of_a_step_are_of_its_level() -> None:
    space = SPACES["elastic-mini"]
    levels = levels_of(space)
    sampler = ComplexityAwarePolicy().begin(space, 0)
    for step in range(0, 300, 30):
        *drawn, smallest = sampler.assign(step, 0.0)
        level = levels[walk(0, step, len(levels))]
        assert [assignment.target for assignment in (*drawn, smallest)] == ["labels", "labels", "labels", "mean"]
        assert smallest.architecture == level.smallest
        assert all(
            level.lowest <= macs <= level.highest
            for macs in macs_of(space, *(assignment.architecture for assignment in drawn))
        )


def test_the_walk_moves_once_more_between_epochs() -> None:
    sampler = ComplexityAwarePolicy().begin(SPACES["elastic-mini"], 3)
    levels = len(levels_of(SPACES["elastic-mini"]))
    found = []
    for step in range(60):
        if step % 20 == 0:
            sampler.before_epoch(step // 20, 3.0, None, None, None)
        found.append(sampler.level_of(step))
    moves = [walk(3, move, levels) for move in range(62)]
    assert found == moves[:20] + moves[21:41] + moves[42:62]
    resumed = ComplexityAwarePolicy().begin(SPACES["elastic-mini"], 3)
    resumed.load_state(sampler.state())
    assert resumed.assign(59, 0.9) == sampler.assign(59, 0.9)
