"""Whether two checkouts give the same results to the last bit, for changes that are meant to alter none.

    python benchmarks/same_results.py --before PYTHON CHECKOUT --after PYTHON CHECKOUT
        [--only NAME ...] [--time] [--keep FOLDER]

A side is the interpreter of a virtual environment and a checkout, which is put first on its PYTHONPATH. Every case runs
the same commands on both sides, one side after the other, each in an empty folder with a cache of its own, on the CPU
with one thread a process, and without downloads. Then the files that the commands left are compared: documents field
by field, records line by line, tensors byte by byte. Two cases ask whether a run that ``before`` began, and that was
killed, ends as the uninterrupted run of ``before`` when ``after`` resumes it; where ``after`` refuses with exit code 4,
its words are printed, and that is no difference. ``--time`` also times the default search on both sides in turns, and
prints the ratio of the medians.

Fields and tensors that have another name since the change belong into `RENAMED`. Each case prints one line. The exit
code is 1 if anything differs or fails. All cases take about six minutes on two quiet cores. The interpreter that runs
this file needs no packages.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

RENAMED: dict[str, str] = {"coarseness": "patch_stride"}
"""Names of fields and tensors before the change, and after it."""
LEFT_OUT = {"date", "run", "schema", "seconds", "sources", "versions"}
"""Fields that are no results: times, places, versions and words."""

SEARCHED = ("run/trials.jsonl", "run/front.json")
WEIGHTS = "run/checkpoints/supernet.safetensors"
TRAINED = (WEIGHTS, "run/training.json")
DELIVERED = (WEIGHTS, *SEARCHED, "run/exports/knee/model.safetensors")
BEGUN = ("supernet/checkpoints/supernet.safetensors", "run/checkpoints/training/supernet.safetensors")
FINISHED = (*BEGUN, WEIGHTS, "run/exports/network/model.safetensors", "run/finish.json")
TRAIN_RESNAS = (
    "train --space resnas-mini --data digits --policy multi-architecture --epochs 1 --batch-size 128 --seed 3"
)
SHORT_TRAINING = "--data digits --policy uniform --set batch_size=585"
"""A search without a time budget trains for 22 epochs; this is the smallest batch that makes each of them one step."""
TIME, ROUNDS = "time", 3
REFUSED = 4
"""Exit code of `nas` where it cannot go on with a run folder."""
TIMEOUT_SECONDS = 1800
NUMBERS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B", "BOOL": "?"}
"""Kinds of elements in safetensors files, as `struct` calls them."""


class CaseError(Exception):
    """A case could not be run to its end."""


# -- what is run -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: ``before`` or ``after``, its interpreter, and where its `nas` is."""

    name: str
    python: str
    checkout: Path

    def check(self) -> None:
        """Make sure that `nas` comes from the checkout, and not from where it is installed."""
        with tempfile.TemporaryDirectory() as folder:
            ended = self._run(["-c", "import nas; print(nas.__file__)"], Path(folder))
        if ended.returncode:
            raise SystemExit(f"{self.name}: `nas` cannot be imported\n{_last_lines(ended.stderr)}")
        found = Path(ended.stdout.strip())
        if not found.resolve().is_relative_to(self.checkout.resolve()):
            raise SystemExit(f"{self.name}: `nas` is {found}, expected one inside {self.checkout}")

    def seconds(self, command: str, folder: Path) -> float:
        """Run a command of nas in a folder; how long it took."""
        started = time.perf_counter()
        ended = self.ended(command, folder)
        if ended.returncode:
            raise self.failed(command, ended.returncode, ended.stderr)
        return time.perf_counter() - started

    def ended(self, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """A command of nas that has ended, well or not."""
        return self._run(["-m", "nas", *shlex.split(command)], folder)

    def started(self, command: str, folder: Path) -> subprocess.Popen[bytes]:
        """A command of nas that runs."""
        words = [self.python, "-m", "nas", *shlex.split(command)]
        with (folder / "errors.txt").open("w") as errors:
            return subprocess.Popen(words, cwd=folder, env=self._environment(folder), stdout=errors, stderr=errors)

    def failed(self, command: str, code: int, errors: str) -> CaseError:
        """What to raise for a command that did not end well."""
        return CaseError(f"{self.name}: exit code {code} of `nas {command}`\n{_last_lines(errors)}")

    def _environment(self, folder: Path) -> dict[str, str]:
        equal = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        return {**os.environ, **equal, "PYTHONPATH": str(self.checkout), "NAS_CACHE_DIR": str(folder / "cache")}

    def _run(self, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        options: dict[str, Any] = {"cwd": folder, "env": self._environment(folder), "timeout": TIMEOUT_SECONDS}
        try:
            return subprocess.run([self.python, *words], capture_output=True, text=True, check=False, **options)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CaseError(f"{self.name}: {error}") from error


@dataclass(frozen=True)
class Outcome:
    """The first difference, or nothing; seconds of ``before`` and of ``after``; what else there is to say."""

    difference: str
    seconds: tuple[float, float]
    remark: str = ""
    is_refused: bool = False


@dataclass(frozen=True)
class Same:
    """Commands that both sides run, and the files that must be equal then."""

    name: str
    compared: tuple[str, ...]
    commands: tuple[str, ...]

    def run(self, before: Side, after: Side, folder: Path) -> Outcome:
        """Run the commands on both sides, and compare what they left."""
        first, second = _made(folder / "before"), _made(folder / "after")
        before_seconds = sum(before.seconds(command, first) for command in self.commands)
        after_seconds = sum(after.seconds(command, second) for command in self.commands)
        return Outcome(compare(first, second, self.compared), (before_seconds, after_seconds))


@dataclass(frozen=True)
class Resumed:
    """A command that ``before`` begins and ``after`` ends; killed when the file ``watched`` has so many lines."""

    name: str
    compared: tuple[str, ...]
    command: str
    resume: str
    watched: str
    lines: int = 0

    def run(self, before: Side, after: Side, folder: Path) -> Outcome:
        """Compare the uninterrupted run of ``before`` with the one that ``after`` resumed."""
        whole, killed = _made(folder / "whole"), _made(folder / "killed")
        before_seconds = before.seconds(self.command, whole)
        remark = self._begin(before, killed)
        started = time.perf_counter()
        ended = after.ended(self.resume, killed)
        seconds = (before_seconds, time.perf_counter() - started)
        if ended.returncode == REFUSED:
            return Outcome("", seconds, f"{remark}; exit code {REFUSED}: {' '.join(ended.stderr.split())}", True)
        if ended.returncode:
            raise after.failed(self.resume, ended.returncode, ended.stderr)
        return Outcome(compare(whole, killed, self.compared), seconds, f"{remark}, resumed")

    def _begin(self, side: Side, folder: Path) -> str:
        """Begin a run and kill it; how far it came, in words."""
        process, watched = side.started(self.command, folder), folder / self.watched
        try:
            while process.poll() is None and not (watched.exists() and _count_lines(watched) >= self.lines):
                time.sleep(0.005)
        finally:
            process.kill()
            code = process.wait()
        if code > 0:
            raise side.failed(self.command, code, (folder / "errors.txt").read_text())
        if code == 0:
            return "ended before it could be killed"
        return f"killed after {_count_lines(watched)} trials" if self.lines else "killed after its first checkpoint"


@dataclass(frozen=True)
class Timed:
    """A command that both sides run in turns."""

    name: str
    compared: tuple[str, ...]
    command: str

    def run(self, before: Side, after: Side, folder: Path) -> Outcome:
        """Time it, the side that begins changing from round to round, and compare what the first round left."""
        taken: dict[str, list[float]] = {"before": [], "after": []}
        for number in range(ROUNDS):
            for side in (before, after) if number % 2 == 0 else (after, before):
                taken[side.name].append(side.seconds(self.command, _made(folder / f"{side.name}-{number}")))
        medians = (statistics.median(taken["before"]), statistics.median(taken["after"]))
        rounds = "; ".join(f"{name} {', '.join(f'{each:.2f}' for each in seconds)}" for name, seconds in taken.items())
        remark = f"after / before {medians[1] / medians[0]:.3f}, medians of {ROUNDS}: {rounds}"
        return Outcome(compare(folder / "before-0", folder / "after-0", self.compared), medians, remark)


Case: TypeAlias = Same | Resumed | Timed

# -- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file."""

    kind: str
    shape: tuple[int, ...]
    data: bytes


def compare(before: Path, after: Path, names: Iterable[str]) -> str:
    """The first difference between the files of two folders; empty where there is none."""
    for name in names:
        contents = []
        for path in (before / name, after / name):
            try:
                contents.append(read(path))
            except (OSError, ValueError, KeyError) as error:
                raise CaseError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
        if difference := first_difference(contents[0], contents[1], ""):
            return f"{name}: {difference}"
    return ""


def read(path: Path) -> Any:
    """What a file holds: a document, a list of documents, or tensors by name."""
    if path.suffix == ".safetensors":
        return read_tensors(path.read_bytes())
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def read_tensors(contents: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file: the length of a JSON header, the header, and the bytes of all of them."""
    begin = 8 + int.from_bytes(contents[:8], "little")
    header = json.loads(contents[8:begin])
    tensors = {}
    for name in sorted(header.keys() - {"__metadata__"}):
        entry = header[name]
        first, end = (begin + offset for offset in entry["data_offsets"])
        tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), contents[first:end])
    return tensors


def first_difference(before: Any, after: Any, where: str) -> str:
    """Where two contents differ first, with what stands there; empty where they do not."""
    if isinstance(before, dict) and isinstance(after, dict):
        return mapping_difference(before, after, where)
    if isinstance(before, list) and isinstance(after, list):
        for number, pair in enumerate(zip(before, after, strict=False)):
            if difference := first_difference(*pair, f"{where}[{number}]"):
                return difference
        return "" if len(before) == len(after) else f"{where} has {len(before)} entries before, {len(after)} after"
    if isinstance(before, Tensor) and isinstance(after, Tensor):
        return tensor_difference(before, after, where)
    # Texts tell 0.0 from -0.0 and 1 from 1.0; those of floats have all their digits.
    return "" if repr(before) == repr(after) else f"{where} is {before!r} before, {after!r} after"


def mapping_difference(before: Mapping[str, Any], after: Mapping[str, Any], where: str) -> str:
    """The same of two mappings, whose order does not matter."""
    ours = {RENAMED.get(name, name): value for name, value in before.items() if name not in LEFT_OUT}
    theirs = {name: value for name, value in after.items() if name not in LEFT_OUT}
    for name in [*ours, *theirs]:
        place = f"{where}.{name}" if where else name
        if name not in ours or name not in theirs:
            return f"{place} is only there {'before' if name in ours else 'after'}"
        if difference := first_difference(ours[name], theirs[name], place):
            return difference
    return ""


def tensor_difference(before: Tensor, after: Tensor, where: str) -> str:
    """The same of two tensors: the first element that differs, and how many do."""
    if (before.kind, before.shape) != (after.kind, after.shape):
        return f"{where} is {before.kind} {before.shape} before, {after.kind} {after.shape} after"
    if before.data == after.data:
        return ""
    code = NUMBERS.get(before.kind)
    if code is None:
        return f"{where}, {before.kind} {before.shape}, differs"
    size = struct.calcsize(code)
    places = range(0, len(before.data), size)
    differ = [place for place in places if before.data[place : place + size] != after.data[place : place + size]]
    ours, theirs = (struct.unpack_from(f"<{code}", tensor.data, differ[0])[0] for tensor in (before, after))
    which = f"element {differ[0] // size} of {len(places)}, of which {len(differ)} differ,"
    return f"{where}: {which} is {ours!r} before, {theirs!r} after"


# -- the cases -------------------------------------------------------------------------------------------------------

_ELASTIC = "search --space elastic --target pixel6 --limit 6ms --evaluations 24 --seed 3 -o run"
_MINI = f"search --space elastic-mini --target pixel6 {SHORT_TRAINING} --evaluations 6 --seed 3 -o run"
_RESNAS = "search --space resnas-mini --target pixel6 --macs 9.8M --score naswot --evaluations 10 --seed 3 -o run"
_TIMM = (
    "search --model 'vit_tiny_patch16_224?img_size=32&depth=2' --weights random --target pixel6"
    f" {SHORT_TRAINING} --evaluations 4 --seed 3 -o run"
)
_ASVIT = "search --space asvit --controller reinforce --evaluations 2 --seed 3 -o run"
_DEVICES = "capacity,latency:pixel6,latency:raspberrypi4"
_TWO = f"search --space elastic-mini --objectives {_DEVICES} --evaluations 40 --seed 3 -o run"
_RAY = "search --space elastic-mini --score naswot --executor ray --workers 2 --evaluations 8 --seed 3 -o run"
_TRAIN = "train --space elastic-mini --data digits --epochs 1 --batch-size 58 --seed 3 -o run"
_FINISH = "finish supernet --arch resnas-mini/res-mini --epochs 1 --set batch_size=200 --seed 3 -o run"
_SCALE = "scale --from 'asvit:8,2,3|4,1,2|4,1,4|4,1,6|32' --up-to 2.5M --repeats 1 --seed 3 -o run"
_KILLED = "search --space resnas-mini --score naswot --evaluations 10 --seed 3 -o run"
_KILLED_TRAINING = f"{TRAIN_RESNAS} --set checkpoint_every_seconds=0 -o run"

CASES: tuple[Case, ...] = (
    Same("elastic", SEARCHED, (_ELASTIC,)),
    Same("elastic-mini", DELIVERED, (_MINI,)),
    Same("resnas-mini", SEARCHED, (_RESNAS,)),
    Same("timm", ("run/checkpoints/original.safetensors", *DELIVERED), (_TIMM,)),
    Same("asvit", SEARCHED, (_ASVIT,)),
    Same("two-devices", SEARCHED, (_TWO,)),
    Same("ray", SEARCHED, (_RAY,)),
    Same("train", TRAINED, (_TRAIN,)),
    Same("finish", FINISHED, (f"{TRAIN_RESNAS} -o supernet", _FINISH)),
    Same("scale", SEARCHED, (_SCALE,)),
    Resumed("resume-search", SEARCHED, _KILLED, "search --resume run", "run/trials.jsonl", lines=4),
    Resumed("resume-train", TRAINED, _KILLED_TRAINING, "train --resume run", WEIGHTS),
    Timed(TIME, SEARCHED, "search --space elastic --target pixel6 -o run"),
)


def main() -> int:
    """Run the cases, and return the exit code."""
    arguments = _arguments()
    before, after = (_side(name, *getattr(arguments, name)) for name in ("before", "after"))
    before.check()
    after.check()
    chosen = arguments.only or [case.name for case in CASES if case.name != TIME]
    cases = [case for case in CASES if case.name in chosen or (case.name == TIME and arguments.time)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).absolute()
        failures = sum(not _is_same(case, before, after, _made(folder / case.name)) for case in cases)
    print(f"{failures} of {len(cases)} cases differ or failed" if failures else "nothing differs")
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    names = [case.name for case in CASES]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for side in ("before", "after"):
        parser.add_argument(f"--{side}", nargs=2, required=True, metavar=("PYTHON", "CHECKOUT"))
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--time", action="store_true", help="also time the default search on both sides in turns")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all runs in this folder, which must be new")
    arguments = parser.parse_args()
    if arguments.keep is not None and arguments.keep.exists():
        parser.error(f"{arguments.keep} exists, expected a new folder")
    return arguments


def _side(name: str, python: str, checkout: str) -> Side:
    found, folder = shutil.which(python), Path(checkout).absolute()
    if found is None or not folder.is_dir():
        raise SystemExit(f"{name}: found no {f'interpreter {python}' if found is None else f'folder {folder}'}")
    return Side(name, os.path.abspath(found), folder)  # not resolved: a link is what makes an environment virtual


def _is_same(case: Case, before: Side, after: Side, folder: Path) -> bool:
    """Run a case and print what came out; whether nothing differs."""
    try:
        outcome = case.run(before, after, folder)
    except CaseError as error:
        print(f"{case.name:14} FAILED {error}", flush=True)
        return False
    verdict = f"DIFFERENT {outcome.difference}" if outcome.difference else "refused" if outcome.is_refused else "equal"
    remark = f" ({outcome.remark})" if outcome.remark else ""
    seconds = "before {:.1f} s, after {:.1f} s".format(*outcome.seconds)
    print(f"{case.name:14} {verdict}{remark} | {seconds} | {', '.join(case.compared)}", flush=True)
    return not outcome.difference


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _last_lines(errors: str) -> str:
    return "\n".join(f"    {line}" for line in errors.splitlines()[-8:])


if __name__ == "__main__":
    raise SystemExit(main())
