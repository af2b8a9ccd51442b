"""Training on a Ray cluster: one actor per process of the training, and nothing else of Ray's.

Plain actors and not Ray Train: a training keeps its own checkpoints, which resume to the same bits, so what Ray Train
adds (checkpoint storage, restarts, a report protocol) would only be a second truth. The actors form a process group,
and from there on the training is the one that `torchrun` starts.
"""

from __future__ import annotations

import os
from collections import deque
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import MissingDependencyError, NasError
from nas.events import Progress, ignore
from nas.executors.ray_cluster import join_cluster
from nas.runs.settings import Given

if TYPE_CHECKING:
    from nas.training.session import TrainResult

POLL_SECONDS = 0.5
START_SECONDS = 300.0
"""The cluster has no room for the workers if they have not started after so long."""
LOOPBACK = "127.0.0.1"
STORE_BYTES = 100 * 2**20
"""Of the object store on a cluster that is started here, through which only events pass."""


PackedEvent = tuple[str, str, dict[str, Any]]
"""Module, class and fields of an event: a queue need not import what it passes on."""


class EventQueue:
    """Where the first process leaves events; Ray runs its methods."""

    def __init__(self) -> None:
        self._events: deque[PackedEvent] = deque(maxlen=1000)

    def put(self, event: PackedEvent) -> None:
        """Leave one."""
        self._events.append(event)

    def take(self) -> list[PackedEvent]:
        """All that came since the last call."""
        return [self._events.popleft() for _ in range(len(self._events))]


class TrainingActor:
    """One process of a training; Ray runs its methods, in the main thread, where torch wants to be imported."""

    def is_ready(self) -> bool:
        """Whether the process runs."""
        return True

    def address(self, is_local: bool) -> tuple[str, int]:
        """Where the first process can be met: its own address and a free port."""
        import socket

        import ray

        host = LOOPBACK if is_local else str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        with socket.socket() as probe:
            probe.bind((host, 0))
            return host, probe.getsockname()[1]

    def run(self, rank: int, count: int, address: tuple[str, int], settings: Given, queue: Any) -> TrainResult:
        """Train together with the others; every one of them returns the same result."""
        import torch
        import torch.distributed as dist

        from nas.training.session import train_together
        from supernets.training.distributed import PATIENCE

        is_local = address[0] == LOOPBACK
        if is_local and Path("/sys/class/net/lo").exists():
            os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        has_gpu = torch.cuda.is_available()
        dist.init_process_group(
            "nccl" if has_gpu else "gloo",
            init_method=f"tcp://{address[0]}:{address[1]}",
            rank=rank,
            world_size=count,
            timeout=PATIENCE,
        )

        def tell(event: object) -> None:
            if rank == 0:
                queue.put.remote((type(event).__module__, type(event).__name__, dict(vars(event))))

        try:
            return train_together({**settings, "device": "cuda" if has_gpu else "cpu", "progress": tell})
        finally:
            dist.destroy_process_group()


def train_on_ray(given: Given) -> TrainResult:
    """Train with several processes on a Ray cluster.

    Args:
        given: Settings of `nas.training.settings.TrainSettings`, ``workers`` among them; folders must be reachable from
            every node. Each worker has a GPU where the cluster has enough of them, else a processor.

    Raises:
        MissingDependencyError: Ray is not installed.
        WorkerLostError: A worker is gone. The last good checkpoint is kept.
        NasError: The cluster cannot be joined, or has no room for the workers.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            f"launcher `ray` needs Ray: {error}", hint="pip install 'ray[tune]>=2.50'"
        ) from error
    progress, address = given.get("progress", ignore), given.get("ray_address")
    room = max(given["workers"], os.cpu_count() or 1)
    is_ours = join_cluster(ray, address, room, store_bytes=STORE_BYTES)
    try:
        sent = {name: value for name, value in given.items() if name != "progress"}
        return _train(ray, sent, progress, is_local=is_ours and address is None)
    finally:
        if is_ours:
            ray.shutdown()


def _train(ray: Any, settings: Given, progress: Progress, is_local: bool) -> TrainResult:
    workers = settings["workers"]
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
    actor_class = ray.remote(num_cpus=1, num_gpus=gpus)(TrainingActor)
    actors = [actor_class.remote() for _ in range(workers)]
    queue = ray.remote(num_cpus=0)(EventQueue).remote()
    try:
        try:
            ray.get([actor.is_ready.remote() for actor in actors], timeout=START_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise NasError(
                f"Ray cluster: {workers} workers did not start within {START_SECONDS:.0f} s, found"
                f" {ray.available_resources().get('CPU', 0):g} processors free",
                hint="train with fewer workers, or add nodes",
            ) from error
        meeting = ray.get(actors[0].address.remote(is_local))
        shared = (workers, meeting, settings, queue)
        calls = [actor.run.remote(rank, *shared) for rank, actor in enumerate(actors)]
        return _follow(ray, queue, calls, progress)
    finally:
        for actor in (*actors, queue):
            ray.kill(actor)


def _follow(ray: Any, queue: Any, calls: list[Any], progress: Progress) -> TrainResult:
    """Pass on the first actor's events until all are done, or one has failed."""
    waiting = list(calls)
    while waiting:
        done, waiting = ray.wait(waiting, num_returns=1, timeout=POLL_SECONDS)
        failed = _failures(ray, done)
        if failed:
            # Those that wait for one that failed fail too, a moment later; what the one says itself comes first.
            later, _ = ray.wait(waiting, num_returns=len(waiting), timeout=5.0) if waiting else ([], [])
            raise _first_cause(failed + _failures(ray, later))
        for module, name, fields in ray.get(queue.take.remote()):
            progress(getattr(import_module(module), name)(**fields))
    result: TrainResult = ray.get(calls[0])
    return result


def _failures(ray: Any, calls: list[Any]) -> list[Exception]:
    found: list[Exception] = []
    for call in calls:
        try:
            ray.get(call)
        except ray.exceptions.RayTaskError as error:
            found.append(error.cause)
        except ray.exceptions.RayError as error:
            found.append(error)
    return found


def _first_cause(errors: list[Exception]) -> Exception:
    from supernets.errors import WorkerLostError

    expected = [error for error in errors if isinstance(error, NasError)]
    own = [error for error in expected if not isinstance(error, WorkerLostError)]
    if own:
        return own[0]
    strange = [error for error in errors if not isinstance(error, WorkerLostError)]
    if strange and type(strange[0]).__module__.startswith("ray."):
        return WorkerLostError(
            f"training: a worker is gone: {str(strange[0]).splitlines()[0]}",
            hint="the last good checkpoint is kept: start the same command again with `--resume RUN`",
        )
    return (strange or errors)[0]
