"""Measuring one network in a process of its own.

A process that has trained for minutes runs the same network about 5 % slower than a fresh one (seen with ONNX Runtime
on x86-64; its memory is in pieces by then), and nothing that ships runs in such a process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from latency_tables.errors import ProfileError
from latency_tables.measure import Measurement, Statistic, measure_network


def measure_network_apart(path: Path, statistic: Statistic) -> Measurement:
    """The latency of an ONNX file, measured by a fresh process with the same Python.

    Args:
        path: The file.
        statistic: That of the table that it is compared with.

    Raises:
        ProfileError: The process failed.
    """
    command = [sys.executable, "-m", "latency_tables.apart", str(path), statistic]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        reason = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ProfileError(f"network `{path}`: measuring it failed: {reason[0]}")
    return Measurement(**json.loads(result.stdout))


def main() -> None:
    """Measure the file named on the command line and write the measurement as JSON."""
    path, statistic = sys.argv[1:]
    measurement = measure_network(Path(path), statistic="p5" if statistic == "p5" else "median")
    sys.stdout.write(json.dumps(asdict(measurement)))


if __name__ == "__main__":
    main()
