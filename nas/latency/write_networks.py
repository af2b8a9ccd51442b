"""Writing sampled networks as a runtime's files, by several processes at once.

Exporting is most of what building a latency table takes. Each process is a fresh Python that imports PyTorch once and
then answers one line per network; it ends when its standard input does, so that nothing is left behind by a kill. A
file that exists already is not written again.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latency_tables.errors import ProfileError
from nas.events import Progress, StageProgress
from nas.latency.sample import Sample
from nas.latency.samples import latency_samples
from nas.records.files import write_json

PROCESSES = 2
"""Processes that export at once; more take more memory than most machines have cores for."""
STAGE = "write networks"


@dataclass(frozen=True)
class ExportJob:
    """One network to write: where it comes from, and where it goes."""

    group: str
    count: int
    seed: int
    number: int
    path: str
    batch: int = 1


def export_samples(runtime: str, jobs: Sequence[ExportJob], environment: Mapping[str, str], progress: Progress) -> None:
    """Write every network that is not there yet, with its expected outputs beside it (`expected_outputs`).

    Args:
        runtime: Name of the runtime.
        jobs: What to write.
        environment: Variables for the processes, for example the Python of the runtime's own environment.
        progress: Told of every file.

    Raises:
        ProfileError: A network cannot be exported.
    """
    due = [job for job in jobs if not Path(job.path).exists()]
    count = max(1, min(PROCESSES, os.cpu_count() or 1, len(due)))
    answers: queue.Queue[tuple[ExportJob, str]] = queue.Queue()
    waiting: queue.Queue[ExportJob] = queue.Queue()
    for job in due:
        waiting.put(job)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    processes = [_start(runtime, variables) for _ in range(count if due else 0)]
    for process in processes:
        threading.Thread(target=_feed, args=(process, waiting, answers), daemon=True).start()
    try:
        for done in range(len(due)):
            progress(StageProgress(STAGE, len(jobs) - len(due) + done, len(jobs)))
            job, error = answers.get()
            if error:
                raise ProfileError(f"network `{job.group}/{job.number}`: {error}")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def expected_outputs(path: Path) -> dict[str, Any]:
    """What PyTorch computed for the network in ``path``."""
    outputs: dict[str, Any] = json.loads(_expected_path(path).read_text(encoding="utf-8"))
    return outputs


def _expected_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.expected.json")


def _start(runtime: str, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nas.latency.write_networks", runtime],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=dict(variables),
        start_new_session=True,  # Ctrl-C is ours to handle
    )


def _feed(
    process: subprocess.Popen[str],
    waiting: queue.Queue[ExportJob],
    answers: queue.Queue[tuple[ExportJob, str]],
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    while True:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (OSError, ValueError):
            answer = ""
        if not answer:
            answers.put((job, "the exporting process ended; it may have run out of memory"))
            return
        answers.put((job, json.loads(answer)["error"]))


def _write(runtime: str, sample: Sample, path: Path, seed: int, batch: int) -> None:
    import torch

    from latency_tables.runtimes import get_runtime
    from latency_tables.worker import digest, random_image

    torch.manual_seed(seed)
    network = sample.build().eval()
    shape = (3, sample.image_side, sample.image_side)
    with torch.inference_mode():
        output = network(torch.from_numpy(random_image([batch, *shape])))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(_expected_path(path), digest(output.double().numpy()))
    get_runtime(runtime).write(network, shape, path, batch)


def main() -> None:
    """Answer jobs until there are no more."""
    import torch

    torch.set_num_threads(1)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever an exporter prints is no answer
    samples: dict[tuple[str, int, int], list[Sample]] = {}
    for line in sys.stdin:
        job = ExportJob(**json.loads(line))
        error = ""
        try:
            key = (job.group, job.count, job.seed)
            if key not in samples:
                samples[key] = latency_samples(*key)
            _write(sys.argv[1], samples[key][job.number], Path(job.path), job.seed + job.number, job.batch)
        except Exception as problem:  # any of many libraries' own; it becomes the answer
            error = str(problem) or type(problem).__name__
        answers.write(json.dumps({"error": error}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
