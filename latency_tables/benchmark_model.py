"""Benchmark programs that run on a device: their command lines, and what they print.

``benchmark_model`` is TensorFlow Lite's and LiteRT's own, a native program that needs nothing on the phone.
``litert-benchmark`` comes with the Python package ``ai-edge-litert``, for boards and PCs. Both give statistics, not
single runs, and both go on when something is not as it was asked for; what they say about that is looked for here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from latency_tables.errors import ProfileError
from search_spaces.json_file import parse_json

Delegate = Literal["xnnpack", "xnnpack-fp16", "gpu", "edgetpu"]

WHERE_TO_GET = (
    "https://storage.googleapis.com/tensorflow-nightly-public/prod/tensorflow/release/lite/tools/nightly/latest/"
    "{abi}_benchmark_model"
)
"""Where Google keeps prebuilt programs; abi is ``android_aarch64``, ``android_arm``, ``linux_aarch64``, ..."""

_FLAGS: Mapping[Delegate, tuple[str, ...]] = {
    "xnnpack": ("--use_xnnpack=true",),
    "xnnpack-fp16": ("--use_xnnpack=true", "--xnnpack_force_fp16=true"),
    "gpu": ("--use_gpu=true",),
    "edgetpu": ("--use_nnapi=true", "--nnapi_accelerator_name=google-edgetpu"),
}
_NAMES: Mapping[Delegate, str] = {"xnnpack": "XNNPACK", "xnnpack-fp16": "XNNPACK", "gpu": "GPU", "edgetpu": "NNAPI"}
_NUMBER = r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?"
_STATISTICS = re.compile(rf"\bcount=\d+(?:\s+\w+={_NUMBER})+")
_FIELD = re.compile(rf"(\w+)=({_NUMBER})")
_SUMMARY_US = re.compile(rf"Inference timings in us:.*Inference \(avg\):\s*({_NUMBER})")
_SUMMARY_MS = re.compile(rf"Inference \(avg\):\s*({_NUMBER}) ms \(\d+ runs\)")
_REPLACED = re.compile(
    r"Replacing (?P<nodes>\d+) out of (?P<total>\d+) node\(s\) with delegate \((?P<name>[^)]*)\) node,"
    r" yielding (?P<partitions>\d+) partitions"
)
_IGNORED = re.compile(r"(?:Unconsumed cmdline flags|unrecognized commandline flag):\s*(.*\S)")


@dataclass(frozen=True)
class RepeatSettings:
    """What one start of a program is asked for.

    Attributes:
        runs: Least number of timed runs.
        warm_up_runs: Least number of untimed runs before them.
    """

    delegate: Delegate = "xnnpack"
    threads: int = 1
    warm_up_runs: int = 30
    runs: int = 100


@dataclass(frozen=True)
class Coverage:
    """How many nodes of a graph a delegate took over, in how many pieces."""

    delegate: str
    nodes: int
    total: int
    partitions: int


@dataclass(frozen=True)
class Timing:
    """Statistics of one start of a program, in milliseconds.

    Attributes:
        median_ms: Median, None where the program gives none.
        p5_ms: 5th percentile, None where the program gives none.
        p95_ms: 95th percentile, None where the program gives none.
        coverage: What delegates took over, in the order of their names' first mention.
    """

    runs: int
    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    median_ms: float | None
    p5_ms: float | None
    p95_ms: float | None
    coverage: tuple[Coverage, ...]

    @property
    def ms(self) -> float:
        """The most robust value there is."""
        return self.mean_ms if self.median_ms is None else self.median_ms


@dataclass(frozen=True)
class Tool:
    """A benchmark program.

    Attributes:
        command: Argument vector of the program, from program, network, a path for results, and settings.
        parse: What it measured, from its output (both streams), the contents of the results' file, and settings.
        writes_results: Whether it writes that file.
    """

    name: str
    command: Callable[[str, PurePosixPath, PurePosixPath, RepeatSettings], list[str]]
    parse: Callable[[str, str, RepeatSettings], Timing]
    writes_results: bool


def benchmark_model_command(
    program: str, model: PurePosixPath, results: PurePosixPath, settings: RepeatSettings
) -> list[str]:
    """The command line of ``benchmark_model``."""
    return [
        program,
        f"--graph={model}",
        f"--num_threads={settings.threads}",
        f"--warmup_runs={settings.warm_up_runs}",
        f"--num_runs={settings.runs}",
        *_FLAGS[settings.delegate],
    ]


def parse_benchmark_model(output: str, results: str, settings: RepeatSettings) -> Timing:
    """Read what ``benchmark_model`` printed: microseconds, in any of the forms that its versions know.

    Raises:
        ProfileError: It measured nothing, ignored a flag, or the delegate declined the graph.
    """
    ignored = _IGNORED.search(output)
    if ignored is not None:
        raise ProfileError(
            f"`benchmark_model` does not know {ignored[1]}, and would measure something else", "get a newer one"
        )
    summary = _SUMMARY_US.search(output)
    summary_ms = _SUMMARY_MS.search(output)
    lines = [match for match in _STATISTICS.finditer(output) if summary is None or match.start() < summary.start()]
    if not lines or (summary is None and summary_ms is None):
        raise ProfileError(f"`benchmark_model` measured nothing: {_reason(output)}")
    fields = {name: float(value) * 1e-3 for name, value in _FIELD.findall(lines[-1][0])}
    runs = round(fields["count"] * 1e3)
    one = fields.get("curr", math.nan)  # a single run is given as `count=1 curr=`
    mean = fields.get("avg", one)
    # The warm-up has a line of the same form: the summary says which one is meant.
    stated = float(summary[1]) * 1e-3 if summary else float(summary_ms[1]) if summary_ms else math.nan
    if not abs(stated - mean) <= 1e-3 * mean + (0.0 if summary else 0.006):
        raise ProfileError(f"`benchmark_model` contradicts itself: an average of {stated:g} ms, and one of {mean:g} ms")
    return Timing(
        runs=runs,
        mean_ms=mean,
        min_ms=fields.get("min", one),
        max_ms=fields.get("max", one),
        std_ms=fields.get("std", 0.0),
        median_ms=fields.get("median", one if runs == 1 else None),
        p5_ms=fields.get("p5"),
        p95_ms=fields.get("p95"),
        coverage=_coverage(output, settings.delegate),
    )


def litert_benchmark_command(
    program: str, model: PurePosixPath, results: PurePosixPath, settings: RepeatSettings
) -> list[str]:
    """The command line of ``litert-benchmark``.

    Raises:
        ProfileError: It cannot use the delegate.
    """
    if settings.delegate not in ("xnnpack", "gpu"):
        raise ProfileError(f"`litert-benchmark` has no delegate `{settings.delegate}`, expected `xnnpack` or `gpu`")
    return [
        program,
        f"--model={model}",
        "--use_cpu" if settings.delegate == "xnnpack" else "--use_gpu",
        f"--num_threads={settings.threads}",
        f"--warmup_runs={settings.warm_up_runs}",
        f"--num_runs={settings.runs}",
        f"--result_json={results}",
    ]


def parse_litert_benchmark(output: str, results: str, settings: RepeatSettings) -> Timing:
    """Read the JSON file that ``litert-benchmark`` wrote; its milliseconds have two decimals.

    Raises:
        ProfileError: It measured nothing, or the delegate did not take the whole graph.
    """
    try:
        document: dict[str, Any] = parse_json(results)
        told = {name: float(document["latency"][name]) for name in _LITERT_NAMES}
        if not all(map(math.isfinite, told.values())):
            raise ValueError("found a number that is not finite")
    except (ValueError, KeyError, TypeError) as error:
        raise ProfileError(f"`litert-benchmark` measured nothing: {_reason(output)}") from error
    if settings.delegate == "gpu" and not document.get("fully_accelerated"):
        raise ProfileError("the GPU delegate left a part of the graph to the CPU, whose time this would be")
    return Timing(
        runs=int(told["num_runs"]),
        mean_ms=told["avg_ms"],
        min_ms=told["min_ms"],
        max_ms=told["max_ms"],
        std_ms=told["std_ms"],
        median_ms=told["median_ms"],
        p5_ms=told["p5_ms"],
        p95_ms=told["p95_ms"],
        coverage=_coverage(output, settings.delegate),
    )


_LITERT_NAMES = ("num_runs", "avg_ms", "min_ms", "max_ms", "std_ms", "median_ms", "p5_ms", "p95_ms")

TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("benchmark_model", benchmark_model_command, parse_benchmark_model, writes_results=False),
        Tool("litert-benchmark", litert_benchmark_command, parse_litert_benchmark, writes_results=True),
    )
}


def _coverage(output: str, delegate: Delegate) -> tuple[Coverage, ...]:
    """What delegates took over; a delegate that declines the graph is no failure to the program, but it is here."""
    declined = re.search(
        rf"Though {_NAMES[delegate]} delegate is explicitly applied, the model graph will not be executed", output
    )
    found = [
        Coverage(match["name"], int(match["nodes"]), int(match["total"]), int(match["partitions"]))
        for match in _REPLACED.finditer(output)
    ]
    if declined is not None:
        raise ProfileError(
            f"the {_NAMES[delegate]} delegate declined the graph: the times would be those of another processor",
            "convert the network in a form that the delegate takes, or choose another delegate",
        )
    return tuple(found)


def _reason(output: str) -> str:
    """The line that most likely says why."""
    lines: Sequence[str] = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"error|fail|cannot|could not|denied", line, re.IGNORECASE)]
    return (telling or lines or ["it printed nothing"])[-1 if not telling else 0]
