"""Tables of networks: what stands in them, their file, and drawing at least as large as a floor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search_spaces import Genotypes, get_space, population_cost
from supernets.errors import SupernetError
from supernets.sampling import get_policy, level_tables
from supernets.sampling.floors import Floor
from supernets.sampling.level_tables import Counts, TableRange, make_tables
from supernets.sampling.levels import level_macs

ELASTIC, MINI = get_space("elastic"), get_space("elastic-mini")
M = ELASTIC.named["M"]


def elastic_macs(genotypes: Genotypes) -> Counts:
    return level_macs(ELASTIC, genotypes)


def mini_macs(genotypes: Genotypes) -> Counts:
    return population_cost(MINI, genotypes).macs


WANTED = TableRange(Floor(ELASTIC, None), 300_000_000, 330_000_000)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "levels"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces of any size are drawn from, a few networks at a time."""
    monkeypatch.setattr(level_tables, "ENUMERATED", 0)
    monkeypatch.setattr(level_tables, "_BATCH", 1 << 12)
    monkeypatch.setattr(level_tables, "_PART", 1 << 11)


def rows_of(table: Genotypes) -> set[bytes]:
    return {bytes(row) for row in table}


# -- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_holds_different_networks_of_its_range_whatever_the_threads() -> None:
    (table,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=500, threads=1)
    assert table.shape == (500, len(ELASTIC.choices))
    assert len(rows_of(table)) == 500
    assert ELASTIC.is_valid(table).all()
    macs = elastic_macs(table)
    assert WANTED.lowest <= macs.min()
    assert macs.max() <= WANTED.highest
    for seed, threads, is_same in ((0, 3, True), (1, 1, False)):
        (other,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=499, seed=seed, threads=threads)
        assert np.array_equal(other, table[:499]) == is_same


def test_a_small_space_is_enumerated_and_nothing_is_stored(cache: Path) -> None:
    wanted = TableRange(Floor(MINI, MINI.middle), 0, 3_400_000)
    (table,) = make_tables(MINI, [wanted], mini_macs)
    generator, macs_of_all = np.random.default_rng(0), []
    for _ in range(20):
        drawn = wanted.floor.sample(2000, generator)
        macs_of_all.append(drawn[mini_macs(drawn) <= wanted.highest])
    assert rows_of(np.concatenate(macs_of_all)) <= rows_of(table)
    assert len(rows_of(table)) == len(table)
    assert mini_macs(table).max() <= wanted.highest
    (fewer,) = make_tables(MINI, [wanted], mini_macs, rows=10)
    assert len(fewer) == 10
    assert rows_of(fewer) < rows_of(table)
    assert not cache.exists()


@pytest.mark.usefixtures("few")
def test_where_there_are_fewer_networks_drawing_ends_with_most_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = TableRange(Floor(MINI, None), 0, 700_000)
    (found,) = make_tables(MINI, [wanted], mini_macs, rows=5000)
    monkeypatch.setattr(level_tables, "ENUMERATED", 1 << 21)
    (whole,) = make_tables(MINI, [wanted], mini_macs, rows=5000)
    assert rows_of(found) <= rows_of(whole)
    assert 0.5 * len(whole) < len(found) <= len(whole) < 5000


@pytest.mark.usefixtures("few")
def test_a_range_without_networks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_tables, "MOST_BATCHES", 3)
    nothing = TableRange(WANTED.floor, 1000, 2000)
    with pytest.raises(SupernetError, match=r"space `elastic`: found no network of 1,000 to 2,000 MACs for complexity"):
        make_tables(ELASTIC, [nothing], elastic_macs)


def test_progress_grows_to_the_whole() -> None:
    seen: list[tuple[int, int]] = []
    ranges = [WANTED, TableRange(WANTED.floor, 400_000_000, 430_000_000)]
    make_tables(ELASTIC, ranges, elastic_macs, rows=400, progress=lambda *told: seen.append(told))
    assert {total for _, total in seen} == {800}
    done = [count for count, _ in seen]
    assert done == sorted(done)
    assert {400, 800} <= set(done)


# -- files -----------------------------------------------------------------------------------------------------------


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_networks(path: Path) -> None:
    np.savez_compressed(path, genotypes=ELASTIC.encode([ELASTIC.smallest]))


def objects(path: Path) -> None:
    np.savez_compressed(path, genotypes=np.array([{"a": 1}], dtype=object))


@pytest.mark.parametrize("damage", [flip_a_byte, cut_short, empty, other_networks, objects])
def test_a_damaged_file_is_made_again(damage: Callable[[Path], None], cache: Path) -> None:
    (table,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=100)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    damage(path)
    assert path.read_bytes() != whole
    (again,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=100)
    assert np.array_equal(again, table)
    assert path.read_bytes() == whole


def test_a_stored_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    (table,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=100)
    monkeypatch.setattr(level_tables, "_search", None)
    (again,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=100)
    assert np.array_equal(again, table)


def test_classes_seeds_and_limits_have_files_of_their_own(cache: Path) -> None:
    make_tables(ELASTIC, [WANTED], elastic_macs, rows=50)
    make_tables(ELASTIC, [WANTED], elastic_macs, rows=50, seed=1)
    make_tables(ELASTIC, [TableRange(Floor(ELASTIC, M), 600_000_000, 700_000_000)], elastic_macs, rows=50)
    ten = get_space("elastic", 10)
    make_tables(ten, [TableRange(Floor(ten, None), WANTED.lowest, WANTED.highest)], elastic_macs, rows=50)
    assert len(list(cache.iterdir())) == 4


def test_a_cache_that_cannot_be_written_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAS_CACHE_DIR", str(tmp_path / "file"))
    (table,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=100)
    assert len(table) == 100
    monkeypatch.delenv("NAS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (again,) = make_tables(ELASTIC, [WANTED], elastic_macs, rows=100)
    assert np.array_equal(again, table)
    assert [path.suffix for path in (tmp_path / "user" / "nas" / "levels").iterdir()] == [".npz"]


# -- floors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounded", [False, True])
def test_floors_draw_as_the_space_does(bounded: bool) -> None:
    """Where a network bounds them, as the space does of draws that are rejected unless they are as large."""
    floor = Floor(ELASTIC, M if bounded else None)
    drawn = floor.sample(40_000, np.random.default_rng(0))
    assert drawn.dtype == np.int8
    assert ELASTIC.is_valid(drawn).all()
    lowest = ELASTIC.encode([M])[0] if bounded else np.zeros(len(ELASTIC.choices))
    free = [column for name, column in ELASTIC.columns.items() if name.endswith(("ratio", "expansion", "kernel"))]
    lowest[free] = 0
    assert (drawn.min(axis=0) == lowest).all()
    assert (drawn.max(axis=0) == ELASTIC.cardinalities - 1).all()
    if not bounded:
        expected = ELASTIC.sample(40_000, np.random.default_rng(1))
        spread = np.sqrt(expected.var(axis=0) / 20_000)
        assert (np.abs(drawn.mean(axis=0) - expected.mean(axis=0)) < 5 * spread).all()
        shape = np.corrcoef(drawn.T) - np.corrcoef(expected.T)
        assert np.abs(shape).max() < 0.05


def test_policies_without_tables_have_nothing_to_prepare() -> None:
    seen: list[tuple[int, int]] = []
    get_policy("sandwich").prepare(MINI, lambda *told: seen.append(told))
    assert seen == []
    get_policy("conflict-aware").prepare(get_space("elastic-mini", 7), lambda *told: seen.append(told))
    assert seen[-1][0] == seen[-1][1] > 0
