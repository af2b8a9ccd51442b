"""The measuring worker: one file that runs on the device, with Python 3.8 or later, numpy and the runtime.

``python worker.py request.json`` does what the request says and prints one JSON object per line: ``facts`` about the
device, ``loaded`` for every network, ``visit`` for every repeat, a block of runs, with the wall and CPU time of each
and an accelerator's state, ``profile`` for every profiled network, ``error`` where one fails, and ``done`` at the end.
What is to be timed and what the times mean is decided by whoever asks; here they are only taken. Nothing else of the
project is imported, so that a board needs no more than this file and the runtime's own functions beside it
(`latency_tables.runtimes.base`).
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import platform
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # what stands here may be newer than the Python of a board
    from collections.abc import Callable
    from typing import Any

    Run = Callable[[Any], Any]
    Ticks = dict[int, tuple[int, int]]

KEPT_SHARE = 1 / 6  # of the memory that is free, for files of networks that stay loaded; loaded they take thrice that
SETTLE_SECONDS, SETTLE_LIMIT_SECONDS = 0.05, 3.0  # of runs between two looks at an accelerator's clock; of all of them
PATIENCE_SECONDS = 10.0  # for which we stay on a core before we look for a quieter one
THERMAL = "/sys/class/thermal"


# ------------------------------------------------------------------------------------------------- the runtime


def load_runtime(file: str) -> Any:
    """The runtime's functions, from the file that came with the request."""
    spec = importlib.util.spec_from_file_location("nas_runtime", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"`{file}` is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_image(shape: list[int]) -> Any:
    """The same normal random numbers wherever it is called."""
    return np.random.RandomState(0).standard_normal(shape).astype(np.float32)


# -------------------------------------------------------------------------------------------------- the device


def device_facts(core: int = 0) -> dict[str, Any]:
    """What the device says about itself; what it does not say is left out."""
    cpufreq = f"/sys/devices/system/cpu/cpu{core}/cpufreq/"
    facts = {
        "host": platform.node(),
        "processor": processor_name(),
        "machine": platform.machine(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "governor": _read(cpufreq + "scaling_governor"),
        "clock_khz": _number(_read(cpufreq + "scaling_cur_freq")),
        "highest_clock_khz": _number(_read(cpufreq + "cpuinfo_max_freq")),
        "celsius": hottest_celsius(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def processor_name() -> str:
    """The processor's name, or the board's where the processor has none."""
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    board = _read("/proc/device-tree/model")
    return board.strip("\0") if board else platform.processor() or platform.machine()


def installed_version(distribution: str) -> str | None:
    """The version of a package; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def hottest_celsius() -> float | None:
    """Temperature of the hottest zone that the kernel reports; None where it reports none."""
    try:
        zones = [name for name in os.listdir(THERMAL) if name.startswith("thermal_zone")]
    except OSError:
        return None
    degrees = [_number(_read(os.path.join(THERMAL, zone, "temp"))) for zone in zones]
    return max((value / 1000 for value in degrees if value is not None), default=None)


def busy_ticks() -> Ticks:
    """Ticks of the clock that each processor was busy, and all its ticks, as ``{core: (busy, all)}``."""
    ticks = {}
    for line in (_read("/proc/stat") or "").splitlines():
        name, _, rest = line.partition(" ")
        if name.startswith("cpu") and name[3:].isdigit():
            times = [int(value) for value in rest.split()[:8]]
            ticks[int(name[3:])] = (sum(times) - times[3] - times[4], sum(times))
    return ticks


def busy_shares(before: Ticks, after: Ticks) -> dict[int, float]:
    """Share of the time between two `busy_ticks` that each processor was busy; without those that did not tick."""
    spent = {core: (after[core][0] - before[core][0], after[core][1] - before[core][1]) for core in before}
    return {core: min(1.0, busy / total) for core, (busy, total) in spent.items() if total > 0}


def best_first(cores: list[int], shares: dict[int, float]) -> list[int]:
    """Cores of the fastest class first, and in each class those first that were busy for the smallest shares."""
    clocks = {
        core: _number(_read(f"/sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq")) or 0 for core in cores
    }
    return sorted(cores, key=lambda core: (-clocks[core], round(shares.get(core, 0.0), 1), core))


class Cores:
    """The cores that we compute on: the quietest of the fastest class, chosen anew when others disturb us."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.chosen: list[int] = []
        self.chosen_at = -PATIENCE_SECONDS
        try:
            self.allowed = sorted(os.sched_getaffinity(0))
        except (AttributeError, OSError):
            self.allowed = []  # this system does not let us choose

    def choose(self, seconds: float = 0.3) -> None:
        """Move to the quietest cores, judged by what they do while we wait."""
        if len(self.allowed) <= self.count or time.monotonic() - self.chosen_at < PATIENCE_SECONDS:
            return
        before = busy_ticks()
        time.sleep(seconds)
        ranked = best_first(self.allowed, busy_shares(before, busy_ticks()))
        try:
            os.sched_setaffinity(0, ranked[: self.count])
        except OSError:
            self.allowed = []
            return
        self.chosen = sorted(ranked[: self.count])
        self.chosen_at = time.monotonic()


def others_busy(before: Ticks, after: Ticks, cores: list[int]) -> float | None:
    """Mean share that the processors besides ours were busy; None where it cannot be known."""
    shares = busy_shares(before, after)
    if cores:
        others = [share for core, share in shares.items() if core not in cores]
        return sum(others) / len(others) if others else None
    return None


def free_bytes() -> int | None:
    """Memory that programs can still have; None where it cannot be known."""
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


# --------------------------------------------------------------------------------------------------- measuring


class Network:
    """One network, loaded for its first repeat."""

    def __init__(self, name: str, entry: dict[str, Any], threads: int, runtime: Any) -> None:
        self.name = name
        self.path = entry["path"]
        self.shape = entry.get("input_shape")
        self.bytes = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        self.threads = threads
        self.loader = runtime.load
        self.clock = runtime.clock
        self.block = runtime.block
        self.state = runtime.state
        self.run: Run | None = None
        self.has_run = False

    def load(self) -> None:
        """Load the network and compute once."""
        start = time.perf_counter()
        if not os.path.exists(self.path):
            raise ValueError(f"there is no file `{self.path}`")
        self.run, precision = self.loader(self.path, self.threads, self.shape)
        self.image = None if self.shape is None else random_image(self.shape)
        output = np.asarray(self.run(self.image), dtype=np.float64)
        self.has_run = False
        seconds = round(time.perf_counter() - start, 3)
        say("loaded", network=self.name, seconds=seconds, precision=precision, output=digest(output))

    def drop(self) -> None:
        """Give the memory back."""
        self.run = None
        gc.collect()

    def repeat(self, request: dict[str, Any]) -> tuple[list[float], list[float]]:
        """Warm up, then time runs until there are enough: wall and CPU times in milliseconds."""
        share = 0.1 if self.has_run else 1.0
        self.has_run = True
        warm_ups = max(1, int(share * request["warm_up_runs"]))
        self.timed(warm_ups, share * request["warm_up_seconds"], request["seconds_limit"])
        self.settle()
        return self.timed(request["runs"], request["seconds"], request["seconds_limit"])

    def settle(self) -> None:
        """Run on until an accelerator's clock, which rises with work, stays where it is."""
        clock, start = 0, time.perf_counter()
        while self.state is not None and time.perf_counter() - start < SETTLE_LIMIT_SECONDS:
            before, clock = clock, self.state()["clock_khz"] or 0
            if abs(clock - before) <= 0.01 * clock:
                return
            self.timed(1, SETTLE_SECONDS, SETTLE_LIMIT_SECONDS)

    def timed(self, runs: int, seconds: float, limit: float) -> tuple[list[float], list[float]]:
        """At least so many runs and seconds, at most ``limit`` seconds."""
        run, image, clock = self.run, self.image, self.clock
        assert run is not None  # loaded before
        if self.block is not None:
            times: tuple[list[float], list[float]] = self.block(run, image, runs=runs, seconds=seconds, limit=limit)
            return times
        wall, cpu = [], []
        start = time.perf_counter()
        while True:
            wall_ns, cpu_ns = clock(run, image)
            wall.append(round(wall_ns * 1e-6, 6))
            cpu.append(round(cpu_ns * 1e-6, 6))
            elapsed = time.perf_counter() - start
            if elapsed > limit or (len(wall) >= runs and elapsed >= seconds):
                return wall, cpu


def cool_down(state: Callable[[], dict[str, Any]], limit: float) -> dict[str, Any]:
    """Wait while an accelerator throttles, at most ``limit`` seconds, and say in what state it is then."""
    start = time.monotonic()
    while True:
        told = state()
        if not told["throttled"] or time.monotonic() - start >= limit:
            return told
        time.sleep(min(2.0, limit))


def digest(output: Any) -> dict[str, Any]:
    """What two outputs that agree have in common: how many numbers, and up to 64 of them, evenly picked."""
    flat = output.ravel()
    picked = flat[np.linspace(0, len(flat) - 1, min(64, len(flat))).astype(int)]
    return {"count": len(flat), "picked": picked.tolist()}


def measure(request: dict[str, Any]) -> None:
    """Time networks in the order of the request's steps; a network that fails is reported and left out."""
    cores = Cores(request["threads"])
    if request["pin"]:
        cores.choose()
    threads, runtime = request["threads"], load_runtime(request["runtime_file"])
    networks = {name: Network(name, entry, threads, runtime) for name, entry in request["networks"].items()}
    kept_bytes, limit = 0, min(free_bytes() or float("inf"), request["memory_bytes"] or float("inf")) * KEPT_SHARE
    failed = set()
    for key, name in request["steps"]:
        if name in failed:
            continue
        network = networks[name]
        try:
            if network.run is None:
                network.load()
                kept_bytes += network.bytes
            told = cool_down(runtime.state, request["cool_seconds"]) if runtime.state is not None else {}
            before = busy_ticks()
            wall, cpu = network.repeat(request)
            busy = others_busy(before, busy_ticks(), cores.chosen)
            if runtime.state is not None:
                later = runtime.state()
                told = {**later, "throttled": sorted({*told["throttled"], *later["throttled"]})}
        except Exception as error:
            failed.add(name)
            say("error", network=name, message=f"{type(error).__name__}: {error}")
            continue
        say("visit", step=key, network=name, wall_ms=wall, cpu_ms=cpu, others_busy=busy, cores=cores.chosen, **told)
        if kept_bytes > limit:
            network.drop()
            kept_bytes -= network.bytes
        if request["pin"] and request["threads"] == 1 and sum(wall) > 1.5 * sum(cpu):
            cores.choose()  # somebody else computes here


def profile(request: dict[str, Any]) -> None:
    """Profile networks with the runtime's own profiler."""
    if request["pin"]:
        Cores(1).choose()
    load_runtime(request["runtime_file"]).profile(request, say)


def say(kind: str, **fields: Any) -> None:
    """Print one line of output."""
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


TASKS = {"measure": measure, "profile": profile}


def main() -> None:
    """Do what the request in the file named on the command line says."""
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    runtime = load_runtime(request["runtime_file"])
    told = runtime.facts() if runtime.facts is not None else {}
    say("facts", **{"runtime_version": installed_version(request["distribution"]), **device_facts(), **told})
    if request["task"] != "facts":
        TASKS[request["task"]](request)
    say("done", **{name: value for name, value in device_facts().items() if name in ("celsius", "clock_khz", "load")})


if __name__ == "__main__":
    main()
