"""A search in which nothing is evaluated, as a whole command: networks by parameters, MACs and predicted latency alone.

    python benchmarks/table_search.py [--evaluations 100000] [--controllers random local] [--space elastic] [--runs 3]

Each command is a process of its own: start of Python, tables, proposals, the record of every network on the disk, the
front. ``resumed`` is the time of ``nas search --resume`` on the finished run, which reads the record and replays it.
Prints the fastest of the runs and all of them; processor time includes what the command starts.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OBJECTIVES = "params,macs,latency"


def main() -> None:
    """Time every controller."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--controllers", nargs="+", default=["random", "local"])
    parser.add_argument("--space", default="elastic")
    parser.add_argument("--target", default="pixel6")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    question = ["--space", arguments.space, "--target", arguments.target, "--objectives", OBJECTIVES]
    print(f"{arguments.evaluations} networks of {arguments.space}, objectives {OBJECTIVES}")
    print(f"{'controller':12}{'seconds':>10}{'processor':>12}{'resumed':>10}{'record':>12}   all runs")
    for controller in arguments.controllers:
        rows = []
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory() as folder:
                run = Path(folder) / "run"
                chosen = ["--controller", controller, "--evaluations", str(arguments.evaluations)]
                seconds, processor = timed(["search", *question, *chosen, "-o", str(run)])
                resumed, _ = timed(["search", "--resume", str(run)])
                rows.append((seconds, processor, resumed, (run / "trials.jsonl").stat().st_size))
        seconds, processor, resumed, size = min(rows)
        every = ", ".join(f"{row[0]:.2f}" for row in rows)
        print(
            f"{controller:12}{seconds:10.2f}{processor:12.2f}{resumed:10.2f}{size / 1e6:9.1f} MB   {every}", flush=True
        )


def timed(arguments: list[str]) -> tuple[float, float]:
    """Seconds that the command takes, and processor seconds."""
    before, started = _processor_seconds(), time.perf_counter()
    subprocess.run([sys.executable, "-m", "nas", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started, _processor_seconds() - before


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
