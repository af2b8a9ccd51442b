"""Several processes that train one supernet together, each on its part of every batch.

The processes are started by somebody else, `torchrun` for example. All of them choose the same architectures, see
different images, and end every step with the same weights: gradients are summed over the processes, and BatchNorm
normalises by the statistics of the whole batch. Gradients of borrowed subnets reach the shared tensors outside of
autograd, which is why a data-parallel wrapper cannot sum them.

Legend of tensor suffixes: B batch, C channels, W workers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from supernets.errors import WorkerLostError
from supernets.training.synchronised_norm import SynchronisedBatchNorm

BUCKET_ELEMENTS = 1 << 23
"""Numbers in a piece in which gradients travel, about 32 MiB."""
PATIENCE = timedelta(minutes=60)
"""How long the others wait for one that is alive but silent: the main one may validate, or write a checkpoint."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one training as one of them sees them; a single one has nobody to talk to.

    Attributes:
        rank: Number of this process, from 0; process 0 is the main one.
        count: Number of processes.
        device: Where tensors must be to travel.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all processes, which must have gradients of the same parameters."""
        if self.count == 1:
            return
        with _reachable():
            for bucket in _buckets([p.grad for p in parameters if p.grad is not None]):
                flat: Tensor = _flatten_dense_tensors(bucket)  # type: ignore[no-untyped-call]
                dist.all_reduce(flat)
                totals = _unflatten_dense_tensors(flat, bucket)  # type: ignore[no-untyped-call]
                for gradient, total in zip(bucket, totals, strict=True):
                    gradient.copy_(total)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, number by number."""
        if self.count == 1 or not values:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        with _reachable():
            dist.all_reduce(totals)
        return [float(total) for total in totals.tolist()]

    def broadcast(self, value: Any) -> Any:
        """The main process's value, anything JSON-ready, in every process; the values of the others do not matter."""
        if self.count == 1:
            return value
        text = json.dumps(value).encode() if self.is_main_process else b""
        with _reachable():
            size = torch.tensor([len(text)], device=self.device)
            dist.broadcast(size, 0)
            letters = torch.frombuffer(bytearray(text), dtype=torch.uint8) if self.is_main_process else None
            letters = torch.empty(int(size), dtype=torch.uint8) if letters is None else letters
            letters = letters.to(self.device)
            dist.broadcast(letters, 0)
        return json.loads(bytes(letters.cpu().numpy()))

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The main process's tensors by name, in every process; those of the others do not matter."""
        if self.count == 1:
            return dict(tensors)
        described = {name: [list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in tensors.items()}
        received: dict[str, Tensor] = {}
        for name, (shape, dtype) in self.broadcast(described).items():
            own = tensors[name] if self.is_main_process else torch.empty(shape, dtype=getattr(torch, dtype))
            travelling = own.detach().to(self.device).contiguous()
            with _reachable():
                dist.broadcast(travelling, 0)
            received[name] = own if self.is_main_process else travelling.to(own.device)
        return received

    def synchronised_batch_norm(self) -> AbstractContextManager[object]:
        """While it lasts, BatchNorm in training mode normalises by the statistics of all processes' images."""
        return nullcontext() if self.count == 1 else SynchronisedBatchNorm(_reachable)


def is_launched() -> bool:
    """Whether this process is one of several that were started together to train."""
    return dist.is_available() and (dist.is_initialized() or dist.is_torchelastic_launched())


@contextmanager
def join_process_group(device: torch.device | str) -> Iterator[ProcessGroup]:
    """The processes that were started together with this one; this one alone where it was started alone.

    Args:
        device: What this process computes on; among several on one machine with GPUs each takes the one of its number.

    Raises:
        WorkerLostError: Another process is gone, while the context lasts.
    """
    device = torch.device(device)
    if not is_launched():
        yield ProcessGroup(device=device)
        return
    is_ours = not dist.is_initialized()
    if is_ours:
        _join(device)
    try:
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        yield ProcessGroup(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if is_ours:
            dist.destroy_process_group()


def _join(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index)
    elif os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE") and os.path.exists("/sys/class/net/lo"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all on this machine: nobody else need reach them
    with _reachable():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(held.numel() for held in bucket) >= BUCKET_ELEMENTS:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@contextmanager
def _reachable() -> Iterator[None]:
    """Says in words what a broken connection means."""
    try:
        yield
    except RuntimeError as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise WorkerLostError(
            f"training: another worker of this training is gone, or cannot be reached: {first_line}",
            hint="its own message, above or on its machine, says why; the last good checkpoint is kept: start the"
            " same command again with `--resume RUN`",
        ) from error
