"""Tables of the networks of complexity levels: made once per space, kept in the user's cache, drawn from in training.

Source: Tang et al., "ElasticViT: Conflict-aware Supernet Training for Deploying Fast Vision Transformer on Diverse
Mobile Devices", ICCV 2023, arXiv 2303.09730: 150,000 different networks per level, drawn from those at least as large
as the level's smallest network, with MACs up to half a window above the level's.

A space of few encodings is enumerated, which takes a second, so nothing is stored. Elsewhere networks are drawn and
judged by the hundred thousand until a table is full, or until nine of ten that are found stand in it already. What is
drawn depends on the seed and the number of the batch alone, so any number of threads makes the same table.

Legend of array suffixes: n networks, c choices.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search_spaces import Genotypes, SearchSpace
from search_spaces.files import DAMAGED_ARCHIVE, cache_dir, replacing
from supernets.errors import SupernetError
from supernets.sampling.floors import Floor

ROWS = 150_000
EXCESS = 0.5
"""Share of a level's window, by which a table reaches above it: as published, 30 million MACs for a window of 20."""
ENUMERATED = 1 << 21
"""Spaces of at most so many encodings are enumerated."""
FEWEST_NEW = 0.1
MOST_BATCHES = 1 << 14
"""Bounds the time that a level takes which hardly any network belongs to: two thousand million draws."""
_BATCH = 1 << 17
_PART = 1 << 14
"""Networks that are judged at once: few enough to stay in the processor's cache."""
_FORMAT = 1

Counts = npt.NDArray[np.int64]
Macs = Callable[[Genotypes], Counts]
Progress = Callable[[int, int], None]
"""Called with the networks found and the networks wanted."""


@dataclass(frozen=True)
class TableRange:
    """What one table holds.

    Attributes:
        floor: Bound from below of the networks' choices.
        lowest: Fewest MACs.
        highest: Most MACs.
    """

    floor: Floor
    lowest: int
    highest: int


def make_tables(
    space: SearchSpace,
    ranges: Sequence[TableRange],
    macs: Macs,
    *,
    seed: int = 0,
    rows: int = ROWS,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Genotypes]:
    """The networks of each range, all different, ``[n, c]``: ``rows`` of them, or fewer where there are not so many.

    Tables are read from the cache where it holds them, and written to it where it can be written.

    Args:
        space: The search space.
        ranges: What each table holds; ranges that share a floor enumerate it once.
        macs: MACs ``[n]`` of genotypes ``[n, c]``.
        seed: Seed of what is drawn.
        rows: Networks in a table.
        threads: Number of threads that draw; None takes one per processor. Tables do not depend on it.
        progress: Told what is found, over all tables.

    Raises:
        SupernetError: A range holds no network.
    """
    threads = threads or _processors()
    enumerated: dict[Floor, tuple[Genotypes, Counts]] = {}
    tables: list[Genotypes] = []
    for number, wanted in enumerate(ranges):
        if wanted.floor.encodings <= ENUMERATED:
            if wanted.floor not in enumerated:
                enumerated[wanted.floor] = _enumerate(wanted.floor, macs)
            table = _choose(*enumerated[wanted.floor], wanted, rows, (seed, number))
        else:
            path = _path(space, wanted, number, seed, rows)
            stored = _read(path, space, wanted, macs)
            if stored is None:
                tell = _from(progress, number, len(ranges), rows)
                stored = _search(wanted, macs, rows, (seed, number), threads, tell)
                _write(path, stored)
            table = stored
        if not len(table):
            raise SupernetError(
                f"space `{space.name}`: found no network of {wanted.lowest:,} to {wanted.highest:,} MACs for"
                f" complexity level {number}"
            )
        tables.append(table)
        _from(progress, number, len(ranges), rows)(rows)
    return tables


def _enumerate(floor: Floor, macs: Macs) -> tuple[Genotypes, Counts]:
    parts = list(floor.enumerate(_PART))
    return np.concatenate(parts), np.concatenate([macs(part) for part in parts])


def _choose(genotypes_nc: Genotypes, macs_n: Counts, wanted: TableRange, rows: int, seed: tuple[int, int]) -> Genotypes:
    inside = np.flatnonzero((macs_n >= wanted.lowest) & (macs_n <= wanted.highest))
    if len(inside) > rows:
        inside = np.sort(np.random.default_rng(seed).choice(inside, rows, replace=False))
    return np.asarray(genotypes_nc[inside], dtype=np.int8)


def _search(
    wanted: TableRange, macs: Macs, rows: int, seed: tuple[int, int], threads: int, tell: Callable[[int], None]
) -> Genotypes:
    """Draw until ``rows`` networks are found, or hardly any new ones among the last tenth as many."""
    found: dict[bytes, None] = {}
    hits = known = 0

    def draw(batch: int) -> Genotypes:
        return _draw_batch(wanted, macs, np.random.default_rng((*seed, batch)))

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, MOST_BATCHES, threads):
            for drawn in pool.map(draw, range(start, start + threads)):
                known += len(found) + len(drawn)
                found.update(dict.fromkeys(map(bytes, drawn)))
                hits, known = hits + len(drawn), known - len(found)
                tell(min(len(found), rows))
                exhausted = 10 * hits >= rows and hits - known < FEWEST_NEW * hits
                if len(found) >= rows or exhausted:
                    flat = np.frombuffer(b"".join(islice(found, rows)), dtype=np.int8)
                    return flat.reshape(-1, len(wanted.floor.lowest_c))
                if 10 * hits >= rows:
                    hits = known = 0
    return np.frombuffer(b"".join(found), dtype=np.int8).reshape(-1, len(wanted.floor.lowest_c))


def _draw_batch(wanted: TableRange, macs: Macs, generator: np.random.Generator) -> Genotypes:
    parts = []
    for _ in range(_BATCH // _PART):
        drawn = wanted.floor.sample(_PART, generator)
        macs_n = macs(drawn)
        parts.append(drawn[(macs_n >= wanted.lowest) & (macs_n <= wanted.highest)])
    return np.concatenate(parts)


def _from(progress: Progress | None, number: int, tables: int, rows: int) -> Callable[[int], None]:
    """Tells of the networks of one table, as part of all of them."""

    def tell(found: int) -> None:
        if progress:
            progress(number * rows + found, tables * rows)

    return tell


# -- files -----------------------------------------------------------------------------------------------------------


def _path(space: SearchSpace, wanted: TableRange, number: int, seed: int, rows: int) -> Path:
    """One file for each table that could be asked for; another definition of the space gives another file."""
    choices = [(choice.name, choice.values) for choice in space.choices]
    limits = (wanted.lowest, wanted.highest, wanted.floor.lowest_c.tolist())
    identity = (_FORMAT, space.name, space.version, space.classes, choices, number, limits, seed, rows)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:12]
    name = space.name.replace("/", "_")
    return cache_dir() / "levels" / f"{name}-v{space.version}-level-{number}-seed-{seed}-{digest}.npz"


def _read(path: Path, space: SearchSpace, wanted: TableRange, macs: Macs) -> Genotypes | None:
    """The table in a file; None where there is none, or one that is damaged (its checksum says so)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            table: Genotypes = archive["genotypes"]
    except DAMAGED_ARCHIVE:
        return None
    if table.dtype != np.int8 or table.ndim != 2 or table.shape[1] != len(space.choices):
        return None
    if not space.is_valid(table).all():
        return None
    macs_n = macs(table)
    return table if ((macs_n >= wanted.lowest) & (macs_n <= wanted.highest)).all() else None


def _write(path: Path, table: Genotypes) -> None:
    """Keep a table for the next training; where that cannot be done it is made again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, genotypes=table)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
