"""Writing sampled networks as a runtime's files, by several processes at once, while others do something else.

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
from typing import Self

from latency_tables.errors import ProfileError
from latency_tables.repeats import QUIET_OTHERS
from latency_tables.worker import best_first
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
    with NetworkWriter(runtime, jobs, environment, progress) as writer:
        writer.finish()


class NetworkWriter:
    """Writes networks, in their order, until its block ends; a file takes its name when it is whole.

    Args:
        runtime: As for `export_samples`, and so are ``jobs``, ``environment`` and ``progress``.
        cores: Cores to write on; empty leaves them to the system.
    """

    def __init__(
        self,
        runtime: str,
        jobs: Sequence[ExportJob],
        environment: Mapping[str, str],
        progress: Progress,
        cores: Sequence[int] = (),
    ) -> None:
        self._due = {job.path: job for job in jobs if not Path(job.path).exists()}
        self._total, self._progress = len(jobs), progress
        self._answers: queue.Queue[tuple[ExportJob, str]] = queue.Queue()
        self._runtime, self._cores = runtime, cores
        self._variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        waiting: queue.Queue[ExportJob] = queue.Queue()
        for job in self._due.values():
            waiting.put(job)
        if self._due:
            self._tell()
        for _ in range(min(PROCESSES, os.cpu_count() or 1, len(self._due))):
            process = _start(self._runtime, self._cores, self._variables)
            self._processes.append(process)
            threading.Thread(target=_feed, args=(process, waiting, self._answers), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def look(self) -> None:
        """Take note of what has been written since.

        Raises:
            ProfileError: A network cannot be exported.
        """
        while not self._answers.empty():
            self._take()

    def is_written(self, path: Path) -> bool:
        """Whether a file is there as a whole.

        Raises:
            ProfileError: A network cannot be exported.
        """
        self.look()
        return str(path) not in self._due

    def wait(self, path: Path) -> None:
        """Return when a file is there as a whole.

        Raises:
            ProfileError: A network cannot be exported.
        """
        while not self.is_written(path):
            self._take()

    def finish(self) -> None:
        """Return when all files are there.

        Raises:
            ProfileError: A network cannot be exported.
        """
        for path in list(self._due):
            self.wait(Path(path))

    def _take(self) -> None:
        job, error = self._answers.get()
        if error:
            raise ProfileError(f"network `{job.group}/{job.number}`: {error}")
        del self._due[job.path]
        self._tell()

    def _tell(self) -> None:
        self._progress(StageProgress(STAGE, self._total - len(self._due), self._total))


def spare_cores(threads: int) -> list[int]:
    """Cores of this machine to write on while others of it are measured; none where that would disturb.

    By the worker's own measure it does not where the other processors are mostly idle all the same.
    """
    try:
        allowed = sorted(os.sched_getaffinity(0))
    except AttributeError:
        return []  # this system does not let us choose
    if PROCESSES > QUIET_OTHERS * (len(allowed) - threads):
        return []
    return best_first(allowed, {})[-PROCESSES:]


def expected_outputs(path: Path) -> Path:
    """The file of what PyTorch computed for the network in ``path``."""
    return path.with_name(f"{path.name}.expected.json")


def _start(runtime: str, cores: Sequence[int], variables: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nas.latency.write_networks", runtime, *map(str, cores)],
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
    write_json(expected_outputs(path), digest(output.double().numpy()))
    get_runtime(runtime).write(network, shape, path, batch)


def main() -> None:
    """Answer jobs until there are no more."""
    import torch

    torch.set_num_threads(1)
    if cores := [int(core) for core in sys.argv[2:]]:
        os.sched_setaffinity(0, cores)
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
