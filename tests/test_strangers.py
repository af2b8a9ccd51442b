"""Files made wrong, read by whatever reads them: an answer or an error of ours, no other, and no hang."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nas.errors import NasError
from tests.support.stranger_files import Format, make_formats

SECONDS = 20
"""For one file; a busy machine is slow."""
MEMORY = 2 << 30
"""Bytes that reading files may add to the process."""


class Hang(BaseException):
    """A file that took too long."""


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Format]]:
    with pytest.MonkeyPatch.context() as patch:
        yield make_formats(tmp_path_factory.mktemp("strangers"), patch)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """At most `MEMORY` more than the process has; more is a `MemoryError`."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def problem_of(form: Format, generator: random.Random) -> str | None:
    """What is wrong with the reading of one wrong file; None where it is read or refused as it should be."""
    folder = form.path.parent
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    form.path.write_bytes(form.mutate(generator, before.get(form.path, b"{}")))

    def hang(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        form.read()
    except NasError as error:
        return None if str(error) else "an error without a message"
    except (Exception, Hang) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/" not in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "the test"
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if any(p in f.filename for p in PACKAGES)]
        return f"{type(error).__name__} at {place} ({' '.join(ours[-3:])}): {str(error)[:120]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for path in folder.iterdir():
            if path.is_file() and path not in before:
                path.unlink()
        for path, contents in before.items():
            path.write_bytes(contents)
    return None


PACKAGES = ("/nas/", "/supernets/", "/latency_tables/", "/search_spaces/")


def fuzz(formats: list[Format], count: int, seed: int) -> Counter[str]:
    """Read wrong files of all formats in turn; how often each problem came, with the first seed that shows it."""
    found: Counter[str] = Counter()
    first: dict[str, str] = {}
    with warnings.catch_warnings(), bounded_memory():
        warnings.simplefilter("ignore")
        for number in range(count):
            form = formats[number % len(formats)]
            if form.name == "lease" and number % 10:
                continue  # a damaged lease is waited for
            problem = problem_of(form, random.Random(f"{seed}:{number}"))
            if problem is not None:
                problem = f"{form.name}: {problem}"
                found[problem] += 1
                first.setdefault(problem, f"{seed}:{number}")
    return Counter({f"{problem} (seed {first[problem]})": times for problem, times in found.items()})


def test_files_made_wrong_are_refused_by_name(formats: list[Format]) -> None:
    assert not fuzz(formats, 6 * len(formats), seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4, None])
def test_twenty_thousand_files_made_wrong(formats: list[Format], seed: int | None) -> None:
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    began = time.monotonic()
    found = fuzz(formats, 5_000, seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stderr.write(f"seed {seed}: 5,000 files in {time.monotonic() - began:.0f} s, peak memory {peak:.0f} MB\n")
    assert not found
