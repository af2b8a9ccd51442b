"""Worker processes that read and augment images, kept alive from epoch to epoch."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from supernets.data.augmentation import Transform, seeded
from supernets.data.image_data import IntArray
from supernets.errors import DataError

MOST_WORKERS = 16
PREFETCHED = 3
"""Batches that each worker process is ahead."""
SUBSTITUTES = 16
"""Images that are tried in place of one that cannot be read."""


class ImageStore(Protocol):
    """Images that can be opened one by one; picklable, so that worker processes can hold it."""

    @property
    def labels(self) -> IntArray:
        """The class index of each image."""
        ...

    def open(self, index: int) -> Any:
        """The decoded image, a PIL image in RGB.

        Raises:
            DataError: It cannot be read.
        """
        ...


class Request(NamedTuple):
    """Which image of the source, and the seed and epoch of its augmentation; None for the image as it is."""

    image: int
    numbers: tuple[int, int] | None


class LoadedBatch(NamedTuple):
    """Images ``[B, C, H, W]``, their labels ``[B]``, and why some images were replaced, by their index."""

    images: Tensor
    labels: Tensor
    damaged: dict[int, str]


class _Sample(NamedTuple):
    image: Tensor
    label: int
    damaged: dict[int, str]


@dataclass(frozen=True)
class Samples(Dataset[Any]):
    """Images of a store as requests ask for them.

    A training image that cannot be read is replaced by the next one of the training part that can, which depends on
    the files alone; an image that is judged is not.

    Attributes:
        store: The images.
        train: Indices of the training part, ascending.
        training: Transform of augmented images.
        plain: Transform of images as they are.
    """

    store: ImageStore
    train: IntArray
    training: Transform
    plain: Transform

    def __getitem__(self, request: Request) -> _Sample | DataError:
        try:
            # An error is returned and raised where it is received: crossing between processes would change its text.
            return self._augmented(request.image, request.numbers) if request.numbers else self._plain(request.image)
        except DataError as error:
            return error

    def _plain(self, index: int) -> _Sample:
        return _Sample(self.plain(self.store.open(index)), int(self.store.labels[index]), {})

    def _augmented(self, index: int, numbers: tuple[int, int]) -> _Sample:
        damaged: dict[int, str] = {}
        place = int(np.searchsorted(self.train, index))
        for shift in range(SUBSTITUTES):
            chosen = int(self.train[(place + shift) % len(self.train)])
            try:
                image = self.store.open(chosen)
            except DataError as error:
                damaged[chosen] = str(error)
                continue
            with seeded(*numbers, index):
                return _Sample(self.training(image), int(self.store.labels[chosen]), damaged)
        raise DataError(
            f"{damaged[index]}; nor can the next {SUBSTITUTES - 1} images be",
            hint="replace the files or take them away",
        )


@dataclass
class _Plan:
    """The batches that a loader is to fetch next, as a `DataLoader` wants them."""

    batches: Sequence[IntArray] = ()
    numbers: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[list[Request]]:
        for batch in self.batches:
            yield [Request(index, self.numbers) for index in batch.tolist()]

    def __len__(self) -> int:
        return len(self.batches)


@dataclass
class _Pool:
    """Worker processes, and the plan that they follow."""

    plan: _Plan
    loader: DataLoader[Any]


@dataclass
class ImageLoader:
    """Batches of a store, in order, read by worker processes ahead of time.

    The processes stay for the next call. A call while another one is not at its end yet gets processes of its own.

    Attributes:
        samples: What is read.
        workers: Processes; 0 reads in this one. Results do not depend on it.
    """

    samples: Samples
    workers: int
    _idle: _Pool | None = field(default=None, init=False)

    def load(self, batches: Sequence[IntArray], numbers: tuple[int, int] | None) -> Iterator[LoadedBatch]:
        """These batches of image indices; ``numbers`` are the seed and epoch of their augmentation.

        Raises:
            DataError: An image cannot be read, or a worker process died.
        """
        plan = _Plan(batches, numbers)
        if not self.workers or len(batches) < 2:
            for requests in plan:
                yield _received(_collate([self.samples[request] for request in requests]))
            return
        pool, self._idle = self._idle or self._started(), None
        pool.plan.batches, pool.plan.numbers = batches, numbers
        arriving: Iterator[Any] = iter(())
        try:
            with _deaths_as_data_errors(self.workers):
                arriving = _iterator(pool.loader)
            for _ in batches:
                with _deaths_as_data_errors(self.workers):
                    batch = next(arriving)
                yield _received(batch)
        except GeneratorExit:
            self._idle = pool  # nobody wants the rest; its workers are as good as before
            raise
        except BaseException:
            del arriving, pool  # ends the workers now; the error's traceback would keep them
            raise
        self._idle = pool

    def _started(self) -> _Pool:
        plan = _Plan()
        loader = DataLoader(
            self.samples,
            batch_sampler=plan,
            num_workers=self.workers,
            collate_fn=_collate,
            worker_init_fn=_begin_worker,
            generator=torch.Generator().manual_seed(0),
            persistent_workers=True,
            prefetch_factor=PREFETCHED,
            pin_memory=torch.cuda.is_available(),
        )
        return _Pool(plan, loader)


def default_workers() -> int:
    """One worker process per free core, of those that each training process on this machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    training_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MOST_WORKERS, max(1, cores // training_processes - 1))


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    # PyTorch's handler of this signal raises in the middle of whatever runs when a worker dies; without it the next
    # batch does.
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    try:
        return iter(loader)
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


@contextmanager
def _deaths_as_data_errors(workers: int) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        # A batch that a dead worker had sent but still held cannot be fetched, which is an error of the connection.
        if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"reading images: one of {workers} worker processes died: {reason}",
            hint="memory or shared memory (/dev/shm) may have run out: take fewer workers, and resume",
        ) from error.with_traceback(None)


def _collate(samples: list[_Sample | DataError]) -> LoadedBatch | DataError:
    images: list[Tensor] = []
    labels: list[int] = []
    damaged: dict[int, str] = {}
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        images.append(sample.image)
        labels.append(sample.label)
        damaged |= sample.damaged
    return LoadedBatch(default_collate(images), torch.tensor(labels, dtype=torch.int64), damaged)


def _received(batch: LoadedBatch | DataError) -> LoadedBatch:
    if isinstance(batch, DataError):
        raise batch
    return batch


def _begin_worker(_worker: int) -> None:
    # Ctrl-C reaches every process of the terminal; the one that trains decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # remarks on metadata, once per process
