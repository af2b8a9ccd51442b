"""Workers as actors of a Ray cluster.

Plain actors, neither tasks nor Tune trials. A task that uses a GPU ends its process, so that each would load weights
and images again; an actor keeps its evaluator, its share of a GPU and its warm kernels. Tune keeps the state of a
search on the head, starts a trial in 0.1 to 1 s and would want to be the loop; here Ray is a pool of workers and
nothing else.

What there is to know about a search stands in its run folder, on the driver's side. Losing a node loses what it was
evaluating, which is done again elsewhere; losing the head ends the search, and ``--resume`` goes on with another
cluster or without one. Weights go into the object store once per node, and every worker there reads the same memory.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nas.errors import MissingDependencyError
from nas.evaluation.evaluators import Evaluator
from nas.executors.base import Evaluation, EvaluatorBlueprint, ExecutorError, Task, evaluate_tasks
from nas.executors.local import processors
from nas.executors.pool import Chunk, Event, Finished, WorkerGone, WorkerReady
from nas.executors.ray_cluster import join_cluster
from nas.executors.worker import describe_error

if TYPE_CHECKING:
    from supernets.checkpoint import Checkpoint

START_SECONDS = 300.0
"""No worker for so long, and there will be none."""
RESIZE_SECONDS = 10.0
Packed: TypeAlias = dict[str, tuple[str, np.ndarray[Any, Any]]]


class RayPool:
    """Starts and watches actors.

    Args:
        blueprint: What they build their evaluator from.
        workers: How many; None for as many as the cluster has room for, which is looked at again every few seconds.
        address: Address of the cluster, as `ray.init` takes it. Default: the cluster that this process has joined
            already, or one of this machine alone that ends with `close`.
        gpus_per_trial: Share of a GPU for each; workers without one see no GPU.

    Raises:
        MissingDependencyError: Ray is not installed.
    """

    def __init__(
        self,
        blueprint: EvaluatorBlueprint,
        workers: int | None = None,
        address: str | None = None,
        gpus_per_trial: float = 0.0,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingDependencyError(
                f"executor `ray` needs Ray: {error}", hint="pip install 'ray[tune]>=2.50'"
            ) from error
        self._ray: Any = ray
        self._blueprint = blueprint
        self._workers = workers
        self._address = address
        self._gpus = gpus_per_trial
        self._numbers = count()
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, int | None]] = {}
        """Worker and chunk by the reference to the answer; no chunk where the evaluator is built."""
        self._is_ready: set[int] = set()
        self._weights: Any = None
        self._metadata: Any = None
        self._is_joined = self._is_ours = False
        self._context = contextlib.ExitStack()
        self._resized = self._alive = 0.0

    def start(self) -> None:
        """Join the cluster, bring the weights there, and start as many workers as are missing."""
        if not self._is_joined:
            self._join()
            self._is_joined = True
            self._alive = time.monotonic()
        self._fill()

    def send(self, worker: int, chunk: Chunk) -> None:
        """Bring a chunk to a worker."""
        call = self._actors[worker].evaluate.remote(chunk.tasks)
        self._calls[call] = (worker, chunk.number)

    def events(self, timeout: float) -> Sequence[Event]:
        """Answers and deaths."""
        found: list[Event] = []
        try:
            calls = list(self._calls)
            if calls:
                done, _ = self._ray.wait(calls, timeout=timeout)
                if done:
                    done, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
                for call in done:
                    if call in self._calls:  # those of a worker that has just died are not looked at
                        found.append(self._event(call))
            else:
                time.sleep(min(timeout, 0.1))
            if not self._calls or time.monotonic() - self._resized > RESIZE_SECONDS:
                self._fill()
        except (self._ray.exceptions.RaySystemError, ConnectionError) as error:
            raise ExecutorError(
                f"the Ray cluster has gone: {describe_error(error)}",
                hint="finished trials are kept; go on with `--resume`, on any cluster",
            ) from error
        self._check_life()
        return found

    def close(self) -> None:
        """End all workers, and the cluster where it was started here."""
        for worker in list(self._actors):
            self._end(worker)
        self._weights = None
        if self._is_ours and self._ray.is_initialized():
            self._ray.shutdown()
        self._context.close()
        self._is_joined = self._is_ours = False

    def _join(self) -> None:
        ray = self._ray
        self._is_ours = join_cluster(ray, self._address, self._workers or processors(), error=ExecutorError)
        self._context.enter_context(_silence())
        if self._blueprint.checkpoint is not None:
            from supernets.checkpoint import read_checkpoint

            checkpoint = read_checkpoint(Path(self._blueprint.checkpoint))
            self._metadata = dict(checkpoint.metadata)
            self._weights = ray.put(pack(checkpoint))

    def _fill(self) -> None:
        """Start workers where some are missing, if the cluster has room for them."""
        self._resized = time.monotonic()
        room = self._room()
        if not room and not self._actors and self._workers is None:
            self._raise_no_room()
        for _ in range((room if self._workers is None else self._workers) - len(self._actors)):
            worker = next(self._numbers)
            actor = self._ray.remote(num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0)(_Worker)
            self._actors[worker] = actor.remote()
            paths = [path for path in sys.path if path]
            call = self._actors[worker].build.remote(self._blueprint, self._weights, self._metadata, paths)
            self._calls[call] = (worker, None)

    def _room(self) -> int:
        """Workers that the whole cluster could hold."""
        total: Mapping[str, float] = self._ray.cluster_resources()
        room = int(total.get("CPU", 0))
        return min(room, int(total.get("GPU", 0) / self._gpus + 1e-9)) if self._gpus else room

    def _event(self, call: Any) -> Event:
        worker, chunk = self._calls.pop(call)
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            reason = describe_error(error.cause if error.cause is not None else error)
            self._end(worker)
            if chunk is None:
                return WorkerGone(worker, f"workers cannot evaluate: {reason}", is_hopeless=True)
            return WorkerGone(worker, reason)
        except self._ray.exceptions.RayError as error:
            self._end(worker)
            return WorkerGone(worker, _first_line(error))
        self._alive = time.monotonic()
        if chunk is None:
            self._is_ready.add(worker)
            return WorkerReady(worker)
        return Finished(worker, chunk, answer)

    def _end(self, worker: int) -> None:
        self._is_ready.discard(worker)
        actor = self._actors.pop(worker)
        self._calls = {call: sent for call, sent in self._calls.items() if sent[0] != worker}
        with contextlib.suppress(Exception):  # it may have died, and its node with it
            self._ray.kill(actor)

    def _check_life(self) -> None:
        if self._is_ready:
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > START_SECONDS:
            self._raise_no_room()

    def _raise_no_room(self) -> None:
        total = {name: self._ray.cluster_resources().get(name, 0.0) for name in ("CPU", "GPU")}
        needs = "1 CPU" + (f" and {self._gpus:g} GPU" if self._gpus else "")
        raise ExecutorError(
            f"the Ray cluster runs no worker: each needs {needs}, found {total['CPU']:g} CPU and {total['GPU']:g} GPU",
            hint="add a node, lower `--gpus-per-trial`, or use fewer workers; then go on with `--resume`",
        )


class _Worker:
    """What runs on the cluster; `evaluate` follows `build`."""

    def __init__(self) -> None:
        self._evaluator: Evaluator

    def build(
        self,
        blueprint: EvaluatorBlueprint,
        weights: Packed | None,
        metadata: Mapping[str, Any] | None,
        paths: Sequence[str],
    ) -> None:
        """Build the evaluator; code that the driver finds under `paths` is found here too, where it exists."""
        sys.path += [path for path in paths if path not in sys.path]
        checkpoint = None
        if weights is not None:
            assert blueprint.checkpoint is not None
            checkpoint = unpack(weights, Path(blueprint.checkpoint), metadata)
        self._evaluator = blueprint.build(checkpoint)

    def evaluate(self, tasks: Sequence[Task]) -> list[tuple[int, Evaluation]]:
        """The evaluation of each task."""
        return list(evaluate_tasks(self._evaluator, tasks))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Ray prints what happens to nodes on standard output, which is for results; its log folder has it too."""
    from ray._private import worker

    before = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def pack(checkpoint: Checkpoint) -> Packed:
    """The weights that count as bytes with the name of their type, which the object store maps without a copy.

    A type that NumPy lacks, for example bfloat16, goes the same way.
    """
    import torch

    weights = checkpoint.averages or checkpoint.weights
    packed: Packed = {}
    for name, tensor in weights.items():
        flat = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        packed[name] = (str(tensor.dtype).removeprefix("torch."), flat.reshape(*tensor.shape, tensor.element_size()))
    return packed


def unpack(packed: Packed, path: Path, metadata: Any) -> Checkpoint:
    """The checkpoint that was packed, its tensors in the memory of ``packed``, which is not to be written."""
    import torch

    from supernets.checkpoint import Checkpoint

    weights = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        for name, (kind, array) in packed.items():
            flat = torch.from_numpy(array.reshape(-1))
            weights[name] = flat.view(getattr(torch, kind)).reshape(array.shape[:-1])
    return Checkpoint(path, weights, {}, metadata)


def _first_line(error: BaseException) -> str:
    first, _, _ = str(error).strip().partition("\n")
    return f"{type(error).__name__}: {first}"
