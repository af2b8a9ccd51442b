"""Images that are decoded when they are needed, from files or a dataset of another library.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from supernets.data.augmentation import CROP_SHARE, plain_transform, training_transform
from supernets.data.image_data import Batch, Division, ImageData, IntArray, LoadOptions
from supernets.data.image_loader import ImageLoader, ImageStore, LoadedBatch, Samples, default_workers
from supernets.data.mirroring import mirroring_of
from supernets.errors import DataError

CACHE_BYTES = 256 * 2**20
"""A part whose decoded images take no more memory than this is decoded once."""
DAMAGED_SHARE = 0.001
"""Share of the training images that may turn out damaged before training stops."""
MIRRORED = 0.5
"""Share of the training images that are mirrored, unless told otherwise."""
UNEVEN = 10
"""Times as many images as the rarest class that the commonest may have before that is said."""
_NAMED = 5

logger = logging.getLogger(__name__)


class StoredData(ImageData):
    """Images that are decoded when they are needed.

    A training image that cannot be read is replaced by its neighbour, which is said once on the log, up to one in a
    thousand of the training images; sources with fewer than a thousand have none to spare. Nothing of this is kept
    over a restart, nor need it be: a replacement depends on the files alone.

    Args:
        source: The text that names the source.
        class_names: Names of the classes in label order.
        division: Which image is in which part.
        store: The images.
        options: Side of the images, their augmentation, and the processes that read them. Half of the training images
            are mirrored where it does not say how many.
        remarks: What a user should know of the images, a sentence each.
    """

    crop_share = CROP_SHARE

    def __init__(
        self,
        source: str,
        class_names: tuple[str, ...],
        division: Division,
        store: ImageStore,
        options: LoadOptions,
        remarks: tuple[str, ...] = (),
    ) -> None:
        from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

        side, workers = options.image_side, options.workers
        super().__init__(source, side, class_names, division, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        self._store = store
        hflip = MIRRORED if options.hflip is None else options.hflip
        training = training_transform(options.augmentation, side, self.mean, self.std, hflip)
        self.remarks = (*remarks, *imbalance(store.labels[division.parts["train"]], class_names))
        samples = Samples(store, division.parts["train"], training, plain_transform(side))
        self._loader = ImageLoader(samples, default_workers() if workers is None else workers)
        self._cache: dict[bytes, Tensor] = {}
        self._damaged: dict[int, str] = {}

    @property
    def labels(self) -> IntArray:
        """As `ImageData.labels`."""
        return self._store.labels

    @property
    def damaged(self) -> Mapping[int, str]:
        """What is wrong with training images that were replaced so far, by their index."""
        return self._damaged

    def _augmented(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]:
        for batch in self._loader.load(batches, (seed, epoch)):
            self._note(batch)
            yield batch.images, torch.from_numpy(batch.labels)

    def _plain(self, batches: Sequence[IntArray]) -> Iterator[Batch]:
        mean, std = torch.tensor(self.mean)[:, None, None], torch.tensor(self.std)[:, None, None]
        for shades_BCHW, labels_B in self._decoded(batches):
            yield (shades_BCHW.float() / 255 - mean) / std, labels_B

    def _decoded(self, batches: Sequence[IntArray]) -> Iterator[Batch]:
        """Undistorted images as bytes, from memory where they fit."""
        if sum(map(len, batches)) * 3 * self.image_side**2 > CACHE_BYTES:
            for batch in self._loader.load(batches, None):
                yield batch.images, torch.from_numpy(batch.labels)
            return
        key = np.concatenate([np.empty(0, dtype=np.int64), *batches]).tobytes()
        if key not in self._cache:
            self._cache[key] = torch.cat([batch.images for batch in self._loader.load(batches, None)])
        first = 0
        for indices in batches:
            shades_BCHW = self._cache[key][first : first + len(indices)]
            first += len(indices)
            yield shades_BCHW, torch.from_numpy(self._store.labels[indices])

    def _note(self, batch: LoadedBatch) -> None:
        """Count and name what could not be read; too much of it is an error."""
        new = {index: reason for index, reason in batch.damaged.items() if index not in self._damaged}
        if not new:
            return
        self._damaged |= new
        reasons = list(self._damaged.values())
        most = int(DAMAGED_SHARE * self.splits["train"])
        hint = "put intact copies in their place, then resume"
        if not most:
            raise DataError(reasons[0], hint=hint)
        if len(reasons) > most:
            named = "; ".join(reasons[:_NAMED]) + ("; ..." if len(reasons) > _NAMED else "")
            raise DataError(
                f"data `{self.source}`: {len(reasons)} training images cannot be read, more than {most}: {named}",
                hint=hint,
            )
        for reason in new.values():
            logger.warning("%s; another training image takes its place (%d so far)", reason, len(reasons))


def mirrored(options: LoadOptions, source: str, class_names: Sequence[str]) -> tuple[LoadOptions, tuple[str, ...]]:
    """The options with a probability of mirroring that suits the classes, and what to say of it.

    Args:
        options: Left as they are where they have one.
        source: The name of the data set, or of its folder.
        class_names: Names of the classes.
    """
    if options.hflip is not None:
        return options, ()
    may_be, remark = mirroring_of(source, class_names)
    return replace(options, hflip=MIRRORED if may_be else 0.0), (remark,) if remark else ()


def imbalance(labels: IntArray, class_names: Sequence[str]) -> tuple[str, ...]:
    """What to say of classes that are much rarer than others; nothing of labels of which images may have several."""
    if labels.ndim == 2:
        return ()
    counts = np.bincount(labels, minlength=len(class_names))
    most, fewest = int(counts.argmax()), int(counts.argmin())
    if not 0 < UNEVEN * counts[fewest] < counts[most]:
        return ()
    return (
        f"class `{class_names[most]}` has {counts[most]} training images and class `{class_names[fewest]}`"
        f" {counts[fewest]}: {counts[most] / counts[fewest]:.0f} times as many. Accuracy says little then; look at"
        " balanced accuracy, and at guessing the commonest class; `--recipe deit-lt` learns more of rare classes",
    )
