"""Every image file of a folder decoded once, before anything is trained on it, and what was found remembered."""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.files import cache_dir
from supernets.checkpoint import write_atomically
from supernets.data.decoding import KINDS, Refusal, read_picture

MOST_THREADS = 16
NAMED = 5
"""Files of each kind that a message names."""
REMEMBERED_SECONDS = 1.0
"""What took less time is decoded again."""
_VERSION = 1


@dataclass(frozen=True)
class Facts:
    """What decoding a file showed.

    Attributes:
        kinds: Which of `supernets.data.decoding.KINDS` it is.
        mode: Mode of its pixels, in Pillow's words.
        form: Its format, in Pillow's words.
        columns: Columns of pixels, before it is turned.
        rows: Rows of pixels.
    """

    kinds: tuple[str, ...]
    mode: str
    form: str
    columns: int
    rows: int


@dataclass(frozen=True)
class Checked:
    """What became of the files of a folder.

    Attributes:
        facts: What is known of each file that can be used, by name.
        refusals: Why each other one cannot be, by name.
    """

    facts: Mapping[str, Facts]
    refusals: Mapping[str, Refusal]

    def remarks(self) -> list[str]:
        """What to say of the files: a line for those that are skipped, and one for those that are changed."""
        lines = []
        total = len(self.facts) + len(self.refusals)
        if self.refusals:
            lines.append(f"{len(self.refusals)} of {total} images are skipped: {'; '.join(self.skipped_by_kind())}")
        counts = Counter(kind for facts in self.facts.values() for kind in facts.kinds)
        changed = [f"{counts[kind]} {words}" for kind, words in KINDS.items() if counts[kind]]
        if changed:
            lines.append(f"of {total} images {'; '.join(changed)}")
        return lines

    def skipped_by_kind(self) -> list[str]:
        """How many files are skipped for each reason, with the names of some."""
        by_kind: dict[str, list[str]] = {}
        for name, refusal in self.refusals.items():
            by_kind.setdefault(refusal.kind, []).append(name)
        return [
            f"{len(names)} {kind} ({', '.join(f'`{name}`' for name in names[:NAMED])}"
            + (f" and {len(names) - NAMED} more)" if len(names) > NAMED else ")")
            for kind, names in sorted(by_kind.items(), key=lambda item: -len(item[1]))
        ]


def check_pictures(
    root: Path, names: Sequence[str], progress: Callable[[int, int], None] = lambda done, total: None
) -> Checked:
    """Decode files, but for those that were found whole before and have neither another size nor another time.

    Args:
        root: Folder of the files.
        names: Their names, relative to it.
        progress: Told of the number of files done, and of all that are to be decoded.
    """
    path = cache_dir() / "checked" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]}.json"
    known, began = _remembered(path), time.monotonic()
    facts: dict[str, Facts] = {}
    refusals: dict[str, Refusal] = {}
    pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1))
    try:
        stamps = dict(zip(names, pool.map(lambda name: _stamp(root / name), names), strict=True))
        facts |= {name: known[name][1] for name in names if name in known and known[name][0] == stamps[name]}
        pending = [name for name in names if name not in facts]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on metadata and sizes, one for each image
            results = pool.map(lambda name: decoded(root / name), pending)
            for done, (name, result) in enumerate(zip(pending, results, strict=True), start=1):
                progress(done, len(pending))
                if isinstance(result, Refusal):
                    refusals[name] = result
                else:
                    facts[name] = result
    finally:
        pool.shutdown(cancel_futures=True)
    if time.monotonic() - began > REMEMBERED_SECONDS and any(name in facts for name in pending):
        _remember(path, {**known, **{name: (stamps[name], found) for name, found in facts.items()}})
    return Checked(facts, refusals)


def copies(root: Path, names: Iterable[str]) -> list[list[str]]:
    """Names of files with the same contents, by group; only files of one size are read."""
    by_size: dict[int, list[str]] = {}
    for name in names:
        by_size.setdefault(os.stat(root / name).st_size, []).append(name)
    by_contents: dict[bytes, list[str]] = {}
    for size, same in by_size.items():
        if size and len(same) > 1:
            for name in same:
                with open(root / name, "rb") as file:
                    by_contents.setdefault(hashlib.file_digest(file, "sha256").digest(), []).append(name)
    return [group for group in by_contents.values() if len(group) > 1]


def decoded(file: Any) -> Facts | Refusal:
    """What decoding a path, or a file that can be sought, shows, or why it cannot be used."""
    try:
        picture = read_picture(file, is_sketch=True)
    except Refusal as refusal:
        return refusal
    return Facts(tuple(sorted(picture.kinds)), picture.mode, picture.form, *picture.size)


def _stamp(path: Path) -> list[int]:
    try:
        facts = os.stat(path)
    except OSError:
        return [0, 0]
    return [facts.st_size, facts.st_mtime_ns]


Known = dict[str, tuple[list[int], Facts]]


def _remembered(path: Path) -> Known:
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            return {}
        return {
            str(name): ([int(size), int(changed)], Facts(tuple(map(str, kinds)), str(mode), str(form), columns, rows))
            for name, (size, changed, kinds, mode, form, columns, rows) in document["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _remember(path: Path, known: Known) -> None:
    files: dict[str, Any] = {
        name: [*stamp, facts.kinds, facts.mode, facts.form, facts.columns, facts.rows]
        for name, (stamp, facts) in known.items()
    }
    try:
        write_atomically(path, json.dumps({"version": _VERSION, "files": files}).encode())
    except OSError:
        pass  # they are decoded again next time
