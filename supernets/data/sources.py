"""Images to train and judge networks on: sources, their fixed parts, and batches that depend on nothing but numbers.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, N images of the source.

Every source is divided once into three disjoint parts: `train`, `search` (what a search looks at) and `test` (looked at
once, at the end). Training batches are stateless: order and augmentation come from (seed, epoch, image), so a resumed
run sees what an uninterrupted one saw, and nobody else's random numbers are touched.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from torch import Tensor

from supernets.errors import DataError

Part = Literal["train", "search", "test"]
Batch = tuple[Tensor, Tensor]
"""Normalised images ``[B, 3, H, W]`` (float32) and their labels ``[B]`` (int64)."""
IntArray = npt.NDArray[np.int64]

PARTS: tuple[Part, ...] = get_args(Part)
SEARCH_FRACTION, TEST_FRACTION = 0.15, 0.20
MOST_SEARCHED = 25_000
FEWEST_PER_CLASS = 5
DIGITS, GLYPHS = "digits", "glyphs"
TIMM_PREFIXES = ("torch", "hfds")


@dataclass(frozen=True)
class Division:
    """A source's images by part.

    Attributes:
        parts: Indices of the images of each part, ascending, disjoint.
        digest: SHA-256 over which image is in which part, to notice a source that changed.
    """

    parts: Mapping[Part, IntArray]
    digest: str

    @property
    def sizes(self) -> dict[str, int]:
        """The number of images of each part."""
        return {part: len(indices) for part, indices in self.parts.items()}


class ImageData(ABC):
    """Images of one source, divided into parts, as batches.

    Attributes:
        source: What `load_data` was asked for.
        image_side: Side of the images in pixels.
        class_names: Names of the classes in label order.
        division: Which image is in which part.
        mean: Of the three colours, in [0, 1], as subtracted from the images.
        std: Of the three colours, as the images are divided by.
        crop_share: Share of the shorter side of a source's image that is left of it; 1 where nothing is cut away.
    """

    crop_share = 1.0

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

    def steps_per_epoch(self, batch_size: int) -> int:
        """The number of training batches of an epoch; the last images that fill no batch are left out of it."""
        return max(1, self.splits["train"] // batch_size)

    def train_batches(
        self, batch_size: int, seed: int, epoch: int, start: int = 0, shard: tuple[int, int] = (0, 1)
    ) -> Iterator[Batch]:
        """The augmented training batches of one epoch, the same ones for the same arguments.

        Args:
            batch_size: Images per batch; a source with fewer training images gives one batch of them all.
            seed: Of order and augmentation.
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

    def batches(self, part: Part, batch_size: int) -> Iterator[Batch]:
        """All images of a part in fixed order, without augmentation; the last batch may be smaller."""
        indices = self.division.parts[part]
        return self._plain([indices[i : i + batch_size] for i in range(0, len(indices), batch_size)])

    def describe(self) -> dict[str, Any]:
        """What tells these images from others, ready for JSON; `check` compares with it later."""
        return {
            "source": self.source,
            "image_side": self.image_side,
            "classes": self.classes,
            "class_names": list(self.class_names),
            "sizes": self.splits,
            "digest": self.division.digest,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    def check(self, recorded: Mapping[str, Any]) -> None:
        """Make sure that these are the images which `describe` described earlier.

        Raises:
            DataError: The source has changed, or is another one.
        """
        found = self.describe()
        for key in ("classes", "class_names", "image_side", "sizes", "digest"):
            if found[key] != recorded.get(key):
                what = "the files" if key == "digest" else key.replace("_", " ")
                values = "" if key == "digest" else f": found {found[key]}, expected {recorded.get(key)}"
                raise DataError(
                    f"data `{self.source}`: {what} changed since the supernet was trained{values}",
                    hint="give the same images, or train on the new ones into a new run folder",
                )

    @abstractmethod
    def _augmented(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]: ...

    @abstractmethod
    def _plain(self, batches: Sequence[IntArray]) -> Iterator[Batch]: ...


def load_data(
    source: str, image_side: int, seed: int = 0, workers: int | None = None, augmentation: str = "light"
) -> ImageData:
    """Find images and divide them.

    Args:
        source: ``digits`` (1,797 scanned digits that come with scikit-learn), ``glyphs`` (13,860 distorted characters,
            see `supernets.data.glyphs`), a folder of images (a sub-folder per class, or such folders under ``train``,
            ``val`` and ``test``), or a dataset of timm.data such as ``torch/cifar10`` or ``hfds/uoft-cs/cifar10``.
        image_side: Side of the images in pixels.
        seed: Of the division. Runs with different training seeds should keep the default, so that what one trained on
            is never what another is tested on.
        workers: Processes that read and augment files; None takes one per free core. Results do not depend on it.
        augmentation: Of training images: ``light``, or ``elasticvit`` or ``resnas`` as published, see
            `supernets.data.augmentation`. What mixes images is for the training to do. With ``light``, digits and
            glyphs are moved a little instead.

    Raises:
        DataError: There is no such source, or nothing that can be trained on in it; the message says what is wrong.
    """
    from supernets.data.augmentation import get_augmentation

    chosen = get_augmentation(augmentation)
    if source == DIGITS:
        from supernets.data.digits import DigitsData

        return DigitsData(image_side, seed, chosen)
    if source == GLYPHS:
        from supernets.data.glyphs import GlyphData

        return GlyphData(image_side, seed, chosen)
    if Path(source).exists():
        from supernets.data.image_files import load_folder

        return load_folder(source, image_side, seed, workers, chosen)
    prefix, separator, _ = source.partition("/")
    if separator and prefix in TIMM_PREFIXES:
        from supernets.data.timm_datasets import load_timm_dataset

        return load_timm_dataset(source, image_side, seed, workers, chosen)
    expected = f"expected `{DIGITS}`, `{GLYPHS}`, a folder of images, or a dataset of timm such as `torch/cifar10`"
    close = difflib.get_close_matches(source, [DIGITS, GLYPHS], n=1)
    raise DataError(
        f"data `{source}`: no such folder, and no source of that name",
        hint=f"did you mean `{close[0]}`?" if close else expected,
    )


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
        names: Of the images, all different.
        labels: Class index of each image.
        class_names: Of the classes, for messages.
        seed: Part of the hash.
        fractions: Share of each part but `train`, which takes the rest.
        source: Of the images, for messages.

    Returns:
        The indices of each part, ascending.

    Raises:
        DataError: There are fewer than two classes, or too few images in one.
    """
    check_classes(labels, class_names, source, FEWEST_PER_CLASS)
    most: dict[Part, int] = {"search": max(1, MOST_SEARCHED // len(class_names))}
    chosen: dict[Part, list[IntArray]] = {part: [] for part in ("train", *fractions)}
    ends = np.bincount(labels, minlength=len(class_names)).cumsum()
    for found in np.split(np.argsort(labels, kind="stable"), ends[:-1]):
        keys = [hashlib.sha256(os.fsencode(f"{seed}/{names[index]}")).digest() for index in found.tolist()]
        members = found[sorted(range(len(keys)), key=keys.__getitem__)]
        total = len(members)
        for part, fraction in fractions.items():
            count = min(max(1, round(fraction * total)), most.get(part, total))
            chosen[part].append(members[:count])
            members = members[count:]
        chosen["train"].append(members)
    return {part: np.sort(np.concatenate(indices)) for part, indices in chosen.items()}


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


def digest_of(parts: Mapping[Part, IntArray], names: Sequence[str], sizes: Sequence[int]) -> str:
    """SHA-256 over the part, name and size in bytes of every image."""
    digest = hashlib.sha256()
    for part in PARTS:
        for line in sorted(f"{part}\t{names[index]}\t{sizes[index]}\n" for index in parts[part].tolist()):
            digest.update(os.fsencode(line))
    return digest.hexdigest()
