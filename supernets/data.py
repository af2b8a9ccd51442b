"""Images to train and judge networks on: sources, their fixed parts, and batches that depend on nothing but numbers.

Legend of tensor suffixes: B batch, C colours, H and W rows and columns, N images of the source.

Every source is divided once into three disjoint parts: `train`, `search` (what a search looks at) and `test` (looked at
once, at the end). Training batches are stateless: order and augmentation come from (seed, epoch, image), so a resumed
run sees what an uninterrupted one saw, and nobody else's random numbers are touched.
"""

from __future__ import annotations

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from supernets.errors import DataError

Part = Literal["train", "search", "test"]
Batch = tuple[Tensor, Tensor]
"""Normalised images ``[B, 3, H, W]`` (float32) and their labels ``[B]`` (int64)."""
IntArray = npt.NDArray[np.int64]

PARTS: tuple[Part, ...] = get_args(Part)
SEARCH_FRACTION, TEST_FRACTION = 0.15, 0.20
FEWEST_PER_CLASS = 5
DIGITS = "digits"
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
    """

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

    def train_batches(self, batch_size: int, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The augmented training batches of one epoch, the same ones for the same arguments.

        Args:
            batch_size: Images per batch; a source with fewer training images gives one batch of them all.
            seed: Of order and augmentation.
            epoch: Number of the epoch, from 0.
            start: Batches to leave out at the beginning of the epoch, at no cost.
        """
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch])))
        order = generator.permutation(self.division.parts["train"])
        batches = range(start, self.steps_per_epoch(batch_size))
        return self._augmented([order[i * batch_size : (i + 1) * batch_size] for i in batches], seed, epoch)

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


def load_data(source: str, image_side: int, seed: int = 0, workers: int | None = None) -> ImageData:
    """Find images and divide them.

    Args:
        source: ``digits`` (1,797 scanned digits that come with scikit-learn), a folder of images (a sub-folder per
            class, or such folders under ``train``, ``val`` and ``test``), or a dataset of timm.data such as
            ``torch/cifar10`` or ``hfds/uoft-cs/cifar10``.
        image_side: Side of the images in pixels.
        seed: Of the division. Runs with different training seeds should keep the default, so that what one trained on
            is never what another is tested on.
        workers: Processes that read and augment files; None takes one per free core. Results do not depend on it.

    Raises:
        DataError: There is no such source, or nothing that can be trained on in it; the message says what is wrong.
    """
    if source == DIGITS:
        return DigitsData(image_side, seed)
    from supernets.image_files import load_folder, load_timm_dataset

    if Path(source).exists():
        return load_folder(source, image_side, seed, workers)
    prefix, separator, _ = source.partition("/")
    if separator and prefix in TIMM_PREFIXES:
        return load_timm_dataset(source, image_side, seed, workers)
    expected = f"expected `{DIGITS}`, a folder of images, or a dataset of timm such as `torch/cifar10`"
    close = difflib.get_close_matches(source, [DIGITS], n=1)
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

    Names alone decide, so the parts do not depend on the order of files or on their contents.

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
    keys = [hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in names]
    chosen: dict[Part, list[int]] = {part: [] for part in ("train", *fractions)}
    for label in range(len(class_names)):
        members = sorted(np.flatnonzero(labels == label).tolist(), key=keys.__getitem__)
        for part, fraction in fractions.items():
            count = max(1, round(fraction * int((labels == label).sum())))
            chosen[part] += members[:count]
            members = members[count:]
        chosen["train"] += members
    return {part: np.array(sorted(indices), dtype=np.int64) for part, indices in chosen.items()}


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
            digest.update(line.encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class AffineRanges:
    """How far `DigitsData` moves a digit: every amount is drawn uniformly up to these, in either direction.

    Attributes:
        degrees: Rotation.
        shift: Of the image side.
        scale: Of the digit's size.
        shear: Columns per row.
    """

    degrees: float = 8.0
    shift: float = 0.06
    scale: float = 0.08
    shear: float = 0.08


class DigitsData(ImageData):
    """1,797 scans of handwritten digits, 8 x 8 pixels, enlarged; embedded in scikit-learn, so no network is needed.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
    (its test part), https://doi.org/10.24432/C50P49.
    """

    def __init__(self, image_side: int, seed: int = 0, ranges: AffineRanges | None = None) -> None:
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        scans = np.rint(digits.images * (255 / digits.images.max())).astype(np.uint8)
        size = (image_side, image_side)
        enlarged = [np.asarray(Image.fromarray(scan).resize(size, Image.Resampling.BICUBIC)) for scan in scans]
        self._images_N1HW = torch.from_numpy(np.stack(enlarged)[:, None])
        self._labels_N = torch.from_numpy(digits.target.astype(np.int64))
        self._ranges = ranges or AffineRanges()

        names = [f"{number:04d}" for number in range(len(scans))]
        class_names = tuple(str(name) for name in digits.target_names)
        fractions: dict[Part, float] = {"search": SEARCH_FRACTION, "test": TEST_FRACTION}
        parts = divide(names, self._labels_N.numpy(), class_names, seed, fractions, DIGITS)
        shades = self._images_N1HW[torch.from_numpy(parts["train"])].float() / 255
        mean, std = float(shades.mean()), float(shades.std())
        division = Division(parts, digest_of(parts, names, [int(scan.sum()) for scan in scans]))
        super().__init__(DIGITS, image_side, class_names, division, (mean, mean, mean), (std, std, std))

    def _augmented(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]:
        # One row of numbers per image of the source: an image's augmentation depends on (seed, epoch, image) alone.
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch, 1])))
        draws = generator.uniform(-1, 1, size=(len(self._labels_N), 6)).astype(np.float32)
        for indices in batches:
            rows = torch.from_numpy(indices)
            grid_BHWG = _moved_grid(torch.from_numpy(draws[indices]), self._ranges, self.image_side)
            shades_B1HW = self._images_N1HW[rows].float()
            moved = F.grid_sample(shades_B1HW, grid_BHWG, mode="bilinear", padding_mode="zeros", align_corners=False)
            yield self._normalised(moved), self._labels_N[rows]

    def _plain(self, batches: Sequence[IntArray]) -> Iterator[Batch]:
        for indices in batches:
            rows = torch.from_numpy(indices)
            yield self._normalised(self._images_N1HW[rows].float()), self._labels_N[rows]

    def _normalised(self, shades_B1HW: Tensor) -> Tensor:
        return ((shades_B1HW / 255 - self.mean[0]) / self.std[0]).repeat(1, 3, 1, 1)


def _moved_grid(draws_BK: Tensor, ranges: AffineRanges, side: int) -> Tensor:
    """Where each pixel of the moved images comes from, ``[B, H, W, 2]`` in [-1, 1] (x, y)."""
    angle = draws_BK[:, 0] * float(np.deg2rad(ranges.degrees))
    zoom_x, zoom_y = 1 + ranges.scale * draws_BK[:, 1], 1 + ranges.scale * draws_BK[:, 2]
    shear = ranges.shear * draws_BK[:, 3]
    shift_B2 = 2 * ranges.shift * draws_BK[:, 4:6]
    cosine, sine = angle.cos(), angle.sin()
    row_x = torch.stack([cosine * zoom_x, (shear * cosine - sine) * zoom_y, shift_B2[:, 0]], dim=1)
    row_y = torch.stack([sine * zoom_x, (shear * sine + cosine) * zoom_y, shift_B2[:, 1]], dim=1)
    affine_B23 = torch.stack([row_x, row_y], dim=1)
    return F.affine_grid(affine_B23, [len(draws_BK), 1, side, side], align_corners=False)
