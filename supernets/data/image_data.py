"""Images to train and judge networks on: their fixed parts, and batches that depend on nothing but numbers.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, N images of the source.

Every source is divided once into three disjoint parts: `train`, `search` (what a search looks at) and `test` (looked at
once, at the end). Training batches are stateless: order and augmentation come from (seed, epoch, image), so a resumed
run sees what an uninterrupted one saw, and nobody else's random numbers are touched.
"""

from __future__ import annotations

import hashlib
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from supernets.data.augmentation import LIGHT, Augmentation
from supernets.errors import DataError

Part = Literal["train", "search", "test"]
Batch = tuple[Tensor, Tensor]
"""Normalised images ``[B, 3, H, W]`` (float32) and their labels (int64): the class ``[B]`` of each, or where images may
have several labels, 0 or 1 for each class ``[B, K]``."""
IntArray = npt.NDArray[np.int64]

PARTS: tuple[Part, ...] = get_args(Part)
FRACTIONS: Mapping[Part, float] = {"search": 0.15, "test": 0.20}
"""Shares of a source's images that are for the search and for the test, where the source itself sets none apart."""
MOST_SEARCHED = 25_000
FEWEST_PER_CLASS = 5
_NAMED = 5

logger = logging.getLogger(__name__)


@cache
def say_once(text: str) -> None:
    """Say something of images on the log, once in each process."""
    logger.warning("%s", text)


@dataclass(frozen=True)
class Division:
    """A source's images by part.

    Attributes:
        parts: Indices of the images of each part, ascending, disjoint.
        digest: SHA-256 over which image is in which part, to notice a source that changed.
        contents: SHA-256 over the sizes of files too, to notice some that were replaced; empty where there are none.
        skipped: Names of images that cannot be read, and are in no part.
    """

    parts: Mapping[Part, IntArray]
    digest: str
    contents: str = ""
    skipped: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images of each part."""
        return {part: len(indices) for part, indices in self.parts.items()}

    def has_digest(self, digest: object) -> bool:
        """Whether a recorded digest is of these images; earlier releases recorded ``contents`` in its place."""
        return digest == self.digest or (bool(self.contents) and digest == self.contents)


class ImageData(ABC):
    """Images of one source, divided into parts, as batches.

    Attributes:
        source: The text that names the source.
        image_side: Side of the images in pixels.
        class_names: Names of the classes in label order.
        division: Which image is in which part.
        mean: Means of the three colours, in [0, 1], which are subtracted from the images.
        std: Standard deviations of the three colours, which the images are divided by.
        crop_share: Share of the shorter side of a source's image that is left of it; 1 where nothing is cut away.
        remarks: What a user should know of them, a sentence each; `supernets.data.sources.load_data` says it.
    """

    crop_share = 1.0
    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        source: str,
        image_side: int,
        class_names: tuple[str, ...],
        division: Division,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        self.source = source
        self.image_side = image_side
        self.class_names = class_names
        self.division = division
        self.mean = mean
        self.std = std

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    @property
    def splits(self) -> dict[str, int]:
        """The number of images of each part."""
        return self.division.sizes

    @property
    @abstractmethod
    def labels(self) -> IntArray:
        """The class of every image of the source, or whether it has each label, as in a `Batch`."""

    @property
    def has_several_labels(self) -> bool:
        """Whether an image may have several labels, or none, in place of one class."""
        return self.labels.ndim == 2

    def class_counts(self, part: Part) -> IntArray:
        """The number of images of each class in a part."""
        return count_classes(self.labels[self.division.parts[part]], self.classes)

    def steps_per_epoch(self, batch_size: int) -> int:
        """The number of training batches of an epoch; the last images that fill no batch are left out of it."""
        return max(1, self.splits["train"] // batch_size)

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """The augmented training batches of one epoch, the same ones for the same arguments.

        Args:
            batch_size: Images per batch; a source with fewer training images gives one batch of them all.
            seed: Seed of order and augmentation.
            epoch: Number of the epoch, from 0.
            start: Batches to leave out at the beginning of the epoch, at no cost.
            shard: ``(r, w)`` gives images ``r::w`` of every batch, for process r of w; an image looks the same in
                whatever shard it is.
        """
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
        order = generator.permutation(self.division.parts["train"])
        rank, world = shard
        starts = range(start * batch_size, self.steps_per_epoch(batch_size) * batch_size, batch_size)
        return self._augmented([order[first : first + batch_size][rank::world] for first in starts], seed, epoch)

    def batches(self, part: Part, batch_size: int, most: int | None = None) -> Iterator[Batch]:
        """The images of a part in fixed order, without augmentation; the last batch may be smaller.

        Args:
            part: The part.
            batch_size: Images per batch.
            most: Images to take, evenly over the part; None takes all.
        """
        indices = self.chosen(part, most)
        return self._plain([indices[i : i + batch_size] for i in range(0, len(indices), batch_size)])

    def chosen(self, part: Part, most: int | None = None) -> IntArray:
        """The images of a part that `batches` gives, in its order."""
        indices = self.division.parts[part]
        if most is None or most >= len(indices):
            return indices
        return indices[np.arange(most) * len(indices) // most]

    def describe(self) -> dict[str, Any]:
        """What tells these images from others, ready for JSON; `check` compares with it later."""
        described = {
            "source": self.source,
            "image_side": self.image_side,
            "classes": self.classes,
            "class_names": list(self.class_names),
            "sizes": self.splits,
            "digest": self.division.digest,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        if self.division.contents:
            described |= {"contents": self.division.contents, "skipped": list(self.division.skipped)}
        return described

    def check(self, recorded: Mapping[str, Any]) -> None:
        """Make sure that these are the images which `describe` described earlier.

        Files that were replaced under their names, for example damaged ones by whole ones, are no other images; that
        they were is said.

        Raises:
            DataError: The source has changed, or is another one.
        """
        found = self.describe()
        is_same = self.division.has_digest(recorded.get("digest"))
        for key in ("classes", "class_names", "image_side", "sizes", "digest"):
            if found[key] != recorded.get(key) and not (is_same and key in ("sizes", "digest")):
                what = "the files" if key == "digest" else key.replace("_", " ")
                values = "" if key == "digest" else f": found {found[key]}, expected {recorded.get(key)}"
                raise self._changed(what, values)
        changes = self._replaced(recorded)
        if changes:
            say_once(
                f"data `{self.source}`: names and classes are those of the run, but {changes}; accuracies from before"
                " and after may differ a little"
            )

    def check_digest(self, digest: object) -> None:
        """Make sure that these are the images of which a digest was recorded.

        Raises:
            DataError: They are not.
        """
        if not self.division.has_digest(digest):
            raise self._changed("the files")

    def _changed(self, what: str, values: str = "") -> DataError:
        return DataError(
            f"data `{self.source}`: {what} changed since the run was started{values}",
            hint="give the same images, by `--data` where they have moved, or train on new ones in a new run folder",
        )

    def _replaced(self, recorded: Mapping[str, Any]) -> str:
        """What became of files that were replaced; nothing where none was."""
        before, now = set(recorded.get("skipped", ())), set(self.division.skipped)
        changes = [
            f"{words}: {len(names)} ({', '.join(f'`{name}`' for name in sorted(names)[:_NAMED])})"
            for names, words in ((before - now, "images can be read now"), (now - before, "images no longer can"))
            if names
        ]
        is_replaced = "contents" in recorded and recorded["contents"] != self.division.contents
        return " and ".join(changes) or ("files have other sizes now" if is_replaced else "")

    @abstractmethod
    def _augmented(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]: ...

    @abstractmethod
    def _plain(self, batches: Sequence[IntArray]) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class LoadOptions:
    """How a data source is to give its images.

    Attributes:
        image_side: Side of the images in pixels.
        seed: Seed of the division into parts.
        workers: Processes that read and augment files; None takes one per free core. Results do not depend on it.
        augmentation: How training images are augmented, but for what mixes them.
        hflip: Probability that a training image is mirrored; None for the source's own.
        trained_elsewhere: Whether the weights to be judged were trained on the source's training images already, so
            that search and test share what the source itself holds out.
    """

    image_side: int
    seed: int = 0
    workers: int | None = None
    augmentation: Augmentation = LIGHT
    hflip: float | None = None
    trained_elsewhere: bool = False


class DataSource(Protocol):
    """Where images come from: which texts name some, and how to load those.

    Another package offers one as an entry point `nas.data_sources`, whose name is the source's and whose object is a
    `DataSource`; a program calls `supernets.data.sources.register_data_source`. `divide` and `digest_of` make the
    `Division`; images in memory are a `supernets.data.memory_images.MemoryData`, others that are opened one by one a
    `supernets.data.stored_images.StoredData`. A source that goes by one name is a `NamedSource`.
    """

    @property
    def expected(self) -> str:
        """The texts that it understands, in words for messages, for example ``a folder of images``."""
        ...

    def understands(self, text: str) -> bool:
        """Whether ``text`` names images of this source; answered without loading any, and without an error."""
        ...

    def load(self, text: str, options: LoadOptions) -> ImageData:
        """The images that ``text`` names, which the source understands; `ImageData.source` is ``text``.

        Raises:
            DataError: They cannot be had, or nothing can be trained on them; the message says what is wrong.
        """
        ...


class NamedSource(ABC):
    """A `DataSource` that goes by one name.

    Attributes:
        name: The name.
    """

    name: str

    @property
    def expected(self) -> str:
        """The name, for messages."""
        return f"`{self.name}`"

    def understands(self, text: str) -> bool:
        """Whether the text is the name."""
        return text == self.name

    @abstractmethod
    def load(self, text: str, options: LoadOptions) -> ImageData:
        """The images of the source."""


def divide(
    names: Sequence[str],
    labels: IntArray,
    class_names: Sequence[str],
    seed: int,
    fractions: Mapping[Part, float],
    source: str,
) -> dict[Part, IntArray]:
    """Divide images class by class, in the order of a hash of their names.

    Names alone decide, so the parts do not depend on the order of files or on their contents. The search part takes
    25,000 images at most (25 of each class of ImageNet, as Liao, Karaman and Sze hold out, arXiv 2109.00642).

    Args:
        names: Names of the images, all different.
        labels: Class index of each image.
        class_names: Names of the classes, for messages.
        seed: Number that is hashed with each name.
        fractions: Share of each part but `train`, which takes the rest.
        source: Source of the images, for messages.

    Returns:
        The indices of each part, ascending.

    Raises:
        DataError: There are fewer than two classes, or too few images in one.
    """
    check_classes(labels, class_names, source, FEWEST_PER_CLASS)
    return divide_strata(names, labels, seed, fractions, len(class_names))


def divide_strata(
    names: Sequence[str], strata: IntArray, seed: int, fractions: Mapping[Part, float], count: int | None = None
) -> dict[Part, IntArray]:
    """Divide what has names, stratum by stratum, as `divide` does with images and their classes.

    Args:
        names: Names, all different.
        strata: Index of the stratum of each.
        seed: Number that is hashed with each name.
        fractions: Share of each part but `train`, which takes the rest.
        count: Number of strata; None for the largest index and one.
    """
    count = count or int(strata.max(initial=0)) + 1
    most: dict[Part, int] = {"search": max(1, MOST_SEARCHED // count)}
    chosen: dict[Part, list[IntArray]] = {part: [] for part in ("train", *fractions)}
    ends = np.bincount(strata, minlength=count).cumsum()
    for found in np.split(np.argsort(strata, kind="stable"), ends[:-1]):
        if not len(found):
            continue
        keys = [hashlib.sha256(os.fsencode(f"{seed}/{names[index]}")).digest() for index in found.tolist()]
        members = found[sorted(range(len(keys)), key=keys.__getitem__)]
        total = len(members)
        for part, fraction in fractions.items():
            taken = min(max(1, round(fraction * total)), most.get(part, total))
            chosen[part].append(members[:taken])
            members = members[taken:]
        chosen["train"].append(members)
    empty: IntArray = np.empty(0, dtype=np.int64)
    return {part: np.sort(np.concatenate([empty, *indices])) for part, indices in chosen.items()}


def count_classes(labels: IntArray, classes: int) -> IntArray:
    """The number of images of each class, or with each label."""
    counts: IntArray = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return counts


def check_classes(labels: IntArray, class_names: Sequence[str], source: str, fewest: int) -> None:
    """Make sure that there are two classes at least, and ``fewest`` images in each.

    Raises:
        DataError: There are not.
    """
    if len(class_names) < 2:
        found = f"one class (`{class_names[0]}`)" if class_names else "no class"
        raise DataError(
            f"data `{source}`: found {found}, expected two or more", hint="put the images of each class in a sub-folder"
        )
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < fewest:
        name, count = class_names[int(counts.argmin())], int(counts.min())
        raise DataError(
            f"data `{source}`: class `{name}` has {count} image{'' if count == 1 else 's'}, expected {fewest} or more",
            hint="add images to the class, or take the class away",
        )


def digest_of(parts: Mapping[Part, IntArray], names: Sequence[str], numbers: Sequence[int]) -> str:
    """SHA-256 over the part, the name and a number of every image, for example its label or its size."""
    digest = hashlib.sha256()
    for part in PARTS:
        for line in sorted(f"{part}\t{names[index]}\t{numbers[index]}\n" for index in parts[part].tolist()):
            digest.update(os.fsencode(line))
    return digest.hexdigest()
