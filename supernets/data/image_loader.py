"""Worker processes that read and augment images, kept alive from epoch to epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from supernets.data.augmentation import Transform, seeded
from supernets.data.image_data import IntArray
from supernets.data.reader_process import ReaderProcess
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
    """Indices of a batch's images, and the seed and epoch of their augmentation; None for the images as they are."""

    images: IntArray
    numbers: tuple[int, int] | None


class LoadedBatch(NamedTuple):
    """Images ``[B, C, H, W]``, labels ``[B]``, and why some images were replaced, by their index."""

    images: Tensor
    labels: IntArray
    damaged: dict[int, str]


Reader = ReaderProcess[Request, LoadedBatch | DataError]


@dataclass(frozen=True)
class Samples:
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

    def read(self, request: Request) -> LoadedBatch | DataError:
        """The batch, or why it cannot be read.

        An error is returned and raised where it is received: crossing between processes would change its text.
        """
        images: list[Tensor] = []
        chosen: list[int] = []
        damaged: dict[int, str] = {}
        try:
            for index in request.images.tolist():
                if request.numbers:
                    index, image = self._augmented(index, request.numbers, damaged)
                else:
                    image = self.plain(self.store.open(index))
                images.append(image)
                chosen.append(index)
        except DataError as error:
            return error
        return LoadedBatch(torch.stack(images), self.store.labels[chosen], damaged)

    def _augmented(self, index: int, numbers: tuple[int, int], damaged: dict[int, str]) -> tuple[int, Tensor]:
        """The image or the next one that can be read, its index first; what cannot be read is added to ``damaged``."""
        place = int(np.searchsorted(self.train, index))
        for shift in range(SUBSTITUTES):
            chosen = int(self.train[(place + shift) % len(self.train)])
            try:
                image = self.store.open(chosen)
            except DataError as error:
                damaged[chosen] = str(error)
                continue
            with seeded(*numbers, index):
                return chosen, self.training(image)
        raise DataError(
            f"{damaged[index]}; nor can the next {SUBSTITUTES - 1} images be",
            hint="replace the files or take them away",
        )


@dataclass
class ImageLoader:
    """Batches of a store, in order, read by worker processes ahead of time.

    The processes stay for the next call. A call while another one is not at its end yet gets processes of its own. One
    that dies is replaced, and the batches are the same.

    Attributes:
        samples: What is read.
        workers: Processes; 0 reads in this one. Results do not depend on it.
    """

    samples: Samples
    workers: int
    _idle: list[Reader] | None = field(default=None, init=False)

    def load(self, batches: Sequence[IntArray], numbers: tuple[int, int] | None) -> Iterator[LoadedBatch]:
        """These batches of image indices; ``numbers`` are the seed and epoch of their augmentation.

        Raises:
            DataError: An image cannot be read, or worker processes die again and again.
        """
        requests = [Request(batch, numbers) for batch in batches]
        if not self.workers or len(batches) < 2:
            for request in requests:
                yield _received(self.samples.read(request))
            return
        readers, self._idle = self._idle or [ReaderProcess(self.samples.read) for _ in range(self.workers)], None
        try:
            for reader in readers:
                reader.discard()
            for number, request in enumerate(requests[: PREFETCHED * len(readers)]):
                readers[number % len(readers)].ask(request)
            for number in range(len(requests)):
                reader = readers[number % len(readers)]
                batch = _received(reader.receive())
                for request in requests[number + PREFETCHED * len(readers) :][:1]:
                    reader.ask(request)
                yield _pinned(batch)
        except GeneratorExit:
            self._idle = readers  # nobody wants the rest; its workers are as good as before
            raise
        except BaseException:
            for reader in readers:
                reader.close()  # now: the error's traceback would keep them
            raise
        self._idle = readers


def default_workers() -> int:
    """One worker process per free core, of those that each training process on this machine has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    training_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(MOST_WORKERS, max(1, cores // training_processes - 1))


def _received(batch: LoadedBatch | DataError) -> LoadedBatch:
    if isinstance(batch, DataError):
        raise batch
    return batch


def _pinned(batch: LoadedBatch) -> LoadedBatch:
    return batch._replace(images=batch.images.pin_memory()) if torch.cuda.is_available() else batch
