"""Pictures and masks: beside each picture an index image that says which class each of its pixels belongs to.

A folder of pictures and one of masks lie beside each other (``images`` and ``masks``, ``JPEGImages`` and
``SegmentationClass``), with files of the same names, in folders of parts where there are some. A mask is a PNG file
whose numbers are the classes; 255 is no class, and such pixels count for nothing.

Legend of array suffixes: N images, H and W rows and columns, K classes.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from supernets.data.augmentation import CROP_SHARE
from supernets.data.decoding import decode
from supernets.data.folder_layout import Split, split_of_path
from supernets.data.image_data import Division, ImageData, IntArray, LoadOptions, Part, digest_of
from supernets.data.image_index import image_extensions, is_nobodys
from supernets.data.label_division import divide_labels
from supernets.data.stored_images import StoredData
from supernets.errors import DataError

PICTURES = frozenset(("image", "images", "img", "imgs", "jpegimages", "picture", "pictures", "photos"))
MASKS = frozenset(("mask", "masks", "annotation", "annotations", "segmentationclass", "segmentation", "segmentations"))
"""What folders of pictures and of masks are called, in small letters, without whatever is no letter."""
CLASS_NAMES = "classes.txt"
NO_CLASS = 255
_MASK_MODES = ("1", "L", "P", "I", "I;16")
_ORIENTATION = 274


@dataclass(frozen=True)
class MaskStore:
    """Pictures and their masks. A `supernets.data.image_loader.ImageStore`.

    Attributes:
        top: The folder of both.
        pictures: Path of each picture in it.
        masks: Path of each mask in it.
        numbers: The number of each class in masks, ascending.
        labels: Whether some pixel of each picture is of each class, ``[N, K]``.
        splits: The part that each is in by its folder; None where nothing says.
    """

    top: Path
    pictures: tuple[str, ...]
    masks: tuple[str, ...]
    numbers: tuple[int, ...]
    labels: IntArray
    splits: tuple[Split | None, ...]

    def divided(self, seed: int, source: str) -> dict[Part, IntArray]:
        """As `divide_labels`."""
        return divide_labels(self.pictures, self.splits, self.labels, self.class_names, seed, source)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The line of ``classes.txt`` for each class, counted from 0; its number where there is no such file."""
        path = self.top / CLASS_NAMES
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError):
            return tuple(f"class {number}" for number in self.numbers)
        if len(lines) <= self.numbers[-1]:
            raise DataError(
                f"data `{self.top}`: `{CLASS_NAMES}` names {len(lines)} classes, masks have number {self.numbers[-1]}",
                hint="write a line for each number from 0 on",
            )
        return tuple(lines[number] for number in self.numbers)

    def open(self, index: int) -> Any:
        """As `ImageStore.open`."""
        path = self.top / self.pictures[index]
        return decode(path, str(path))

    def mask(self, index: int, side: int) -> npt.NDArray[np.uint8]:
        """The class of each pixel ``[side, side]``, 255 for none, cropped as pictures that are judged are."""
        from PIL import Image
        from torchvision.transforms import CenterCrop, InterpolationMode, Resize

        numbers_HW = _numbers(self.top / self.masks[index])
        places = np.full(256, NO_CLASS, dtype=np.uint8)
        places[list(self.numbers)] = np.arange(len(self.numbers))
        resized = Resize(math.floor(side / CROP_SHARE), InterpolationMode.NEAREST)(Image.fromarray(places[numbers_HW]))
        return np.asarray(CenterCrop(side)(resized))


class MaskedData(StoredData):
    """Pictures with masks; their labels are the classes that some pixel of each is of.

    Args:
        source: The text that names the folder.
        store: The pictures.
        options: Side and seed.
    """

    def __init__(self, source: str, store: MaskStore, options: LoadOptions) -> None:
        parts = store.divided(options.seed, source)
        sizes = [(store.top / name).stat().st_size for name in store.masks]
        division = Division(parts, digest_of(parts, store.pictures, store.labels.tolist()))
        division = Division(parts, division.digest, contents=digest_of(parts, store.masks, sizes))
        remark = f"{len(store.masks)} masks say the class of each pixel: {', '.join(store.class_names[:5])}"
        more = len(store.class_names) - 5
        remarks = (remark + (f" and {more} more" if more > 0 else ""),)
        super().__init__(source, store.class_names, division, store, options, remarks)
        self._masks = store

    def masks(self, part: Part, most: int | None = None) -> Tensor:
        """The class of each pixel of the pictures that ``batches(part, ..., most)`` gives, ``(N, H, W)`` of uint8."""
        indices = self.chosen(part, most)
        masks = [torch.from_numpy(self._masks.mask(index, self.image_side).copy()) for index in indices.tolist()]
        return torch.stack(masks)


def holds_masks(top: Path) -> bool:
    """Whether a folder of pictures and a folder of PNG files that are called so lie in a folder."""
    return _folders(top) is not None


def refuse_masks(images: ImageData) -> None:
    """Make sure that classes or labels are known of whole images.

    Raises:
        DataError: Masks say the class of each pixel instead.
    """
    if isinstance(images, MaskedData):
        raise DataError(
            f"data `{images.source}`: masks say the class of each pixel, expected classes or labels of whole images",
            hint="masks are for `nas search --model NAME --objectives mean_iou,latency` and `nas profile --model NAME`",
        )


def find_masks(top: Path) -> MaskStore:
    """Pictures with their masks, each of which is read once.

    Raises:
        DataError: A picture has no mask or the other way round, or a mask is no index image of the picture's size.
    """
    folders = _folders(top)
    assert folders is not None, "there is a folder of each"
    pictures, masks = (_files(top / folder) for folder in folders)
    alone = sorted(pictures.keys() ^ masks.keys())
    if alone:
        what, where = ("mask", folders[1]) if alone[0] in pictures else ("picture", folders[0])
        raise DataError(
            f"data `{top}`: `{alone[0]}` and {len(alone) - 1} others have no {what}, expected a file of that name in"
            f" `{where}`",
            hint="give picture and mask the same name, but for the ending",
        )
    names = sorted(pictures)
    found: list[set[int]] = []
    for name in names:
        path = top / folders[1] / masks[name]
        numbers_HW = _numbers(path)
        size = _upright_size(top / folders[0] / pictures[name])
        if size != numbers_HW.shape[::-1]:
            raise DataError(f"mask `{path}`: found {numbers_HW.shape[::-1]} pixels, its picture has {size}")
        found.append(set(np.unique(numbers_HW).tolist()) - {NO_CLASS})
    numbers = tuple(sorted(set().union(*found)))
    if len(numbers) < 2:
        raise DataError(
            f"data `{top}`: masks hold {f'number {numbers[0]}' if numbers else 'nothing'} and 255, which is no class,"
            " expected two classes or more",
            hint="write 0 for the background and 1 for what is looked for",
        )
    labels = np.array([[int(number in own) for number in numbers] for own in found], dtype=np.int64)
    splits = tuple(split_of_path(name) for name in names)
    paths = (
        tuple(f"{folders[0]}/{pictures[name]}" for name in names),
        tuple(f"{folders[1]}/{masks[name]}" for name in names),
    )
    return MaskStore(top, *paths, numbers, labels, splits)


def _folders(top: Path) -> tuple[str, str] | None:
    """Names of the folders of pictures and of masks; None where there is not one of each."""
    try:
        names = [entry.name for entry in os.scandir(top) if entry.is_dir() and not is_nobodys(entry.name)]
    except OSError:
        return None
    pictures, masks = (
        [name for name in names if re.sub(r"[^a-z]", "", name.lower()) in known] for known in (PICTURES, MASKS)
    )
    if len(pictures) != 1 or len(masks) != 1 or not any((top / masks[0]).rglob("*.[pP][nN][gG]")):
        return None
    return pictures[0], masks[0]


def _files(folder: Path) -> dict[str, str]:
    """The image files of a folder by path without ending.

    Raises:
        DataError: Two have the same.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() in image_extensions() and not any(map(is_nobodys, relative.parts)):
            name = relative.with_suffix("").as_posix()
            if name in found:
                raise DataError(f"data `{folder}`: `{found[name]}` and `{relative}` have the same name")
            found[name] = relative.as_posix()
    return found


def _upright_size(path: Path) -> tuple[int, int]:
    """Columns and rows of a picture.

    Raises:
        DataError: It cannot be read, or is to be turned before it is shown.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            size, orientation = picture.size, picture.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow raises a kind of its own for almost every fault
        raise DataError(f"image `{path}`: cannot be read: {error}", hint="replace it, or take it away") from error
    if orientation != 1:
        raise DataError(
            f"image `{path}`: it is to be turned (EXIF), and nobody says whether its mask is turned already"
        )
    return size


def _numbers(path: Path) -> npt.NDArray[np.uint8]:
    """The numbers in a mask.

    Raises:
        DataError: It cannot be read, or is no image of numbers up to 255.
    """
    from PIL import Image

    try:
        with Image.open(path) as mask:
            mode, numbers_HW = mask.mode, np.asarray(mask)
    except Exception as error:  # Pillow raises a kind of its own for almost every fault
        raise DataError(f"mask `{path}`: cannot be read: {error}") from error
    if mode not in _MASK_MODES or path.suffix.lower() != ".png" or int(numbers_HW.max(initial=0)) > NO_CLASS:
        found = f"numbers up to {numbers_HW.max()}" if mode in _MASK_MODES else f"an image of mode {mode}"
        raise DataError(
            f"mask `{path}`: found {found} in a `{path.suffix}` file, expected PNG with a class's number in each pixel",
            hint="write classes as numbers from 0 to 254, not as colours",
        )
    return numbers_HW.astype(np.uint8)
