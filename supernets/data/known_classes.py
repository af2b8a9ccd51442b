"""Images whose classes a trained network knows already, under whatever names and in whatever order folders have them.

Classes of ImageNet are told by their WordNet numbers (``n01440764``), with or without a name behind, by one of their
names (``tench``), or by their place (``0``). Images of some of the classes will do; the network still chooses among all
of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from supernets.data.augmentation import CROP_SHARE
from supernets.data.image_data import Batch, ImageData, IntArray, Part
from supernets.errors import DataError

IMAGENET_CLASSES = 1000
_NUMBER = re.compile(r"n\d{8}(?!\d)")


class KnownClasses(ImageData):
    """The images of a source with the labels that a network has for their classes.

    Args:
        images: The images.
        class_names: Names of all classes of the network, in label order.
        rows: Label of the network for each class of the images.
    """

    def __init__(self, images: ImageData, class_names: Sequence[str], rows: Sequence[int]) -> None:
        super().__init__(images.source, images.image_side, tuple(class_names), images.division, images.mean, images.std)
        self.crop_share, self.remarks = images.crop_share, images.remarks
        self._images = images
        self._rows = torch.tensor(rows)

    @property
    def labels(self) -> IntArray:
        """The network's class of every image of the source."""
        return self._rows.numpy()[self._images.labels]

    def _augmented(self, batches: Sequence[IntArray], seed: int, epoch: int) -> Iterator[Batch]:
        return self._relabelled(self._images._augmented(batches, seed, epoch))

    def _plain(self, batches: Sequence[IntArray]) -> Iterator[Batch]:
        return self._relabelled(self._images._plain(batches))

    def _relabelled(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for x_BCHW, labels_B in batches:
            yield x_BCHW, self._rows[labels_B]


@cache
def imagenet_names() -> tuple[str, ...]:
    """WordNet numbers of ImageNet's 1,000 classes, in label order."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    return tuple(info.label_names())


def imagenet_described(classes: int) -> dict[str, Any]:
    """What is known of the images that weights for so many classes were trained on, for the header of a checkpoint."""
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    if classes != IMAGENET_CLASSES:
        return {}
    colours = {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
    return {"class_names": list(imagenet_names()), **colours, "crop_share": CROP_SHARE}


def is_of_imagenet(described: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's entry ``data`` names ImageNet's classes."""
    return described.get("class_names") == list(imagenet_names())


def with_known_classes(images: ImageData, classes: int, described: Mapping[str, Any]) -> ImageData:
    """The images as a network sees them that was trained elsewhere.

    Args:
        images: Images of some or all of its classes.
        classes: Number of its classes.
        described: The entry ``data`` of its checkpoint, with the names of the classes where they are known.

    Raises:
        DataError: They are images of other classes.
    """
    if images.has_several_labels:
        raise DataError(
            f"data `{images.source}`: images have several labels, the imported weights tell one class of each",
            hint="give images in a folder per class, or begin from a model: `nas search --model`",
        )
    if not is_of_imagenet(described):
        if images.classes != classes:
            raise DataError(
                f"data `{images.source}`: found {images.classes} classes, the imported weights tell {classes}",
                hint="give images of the classes that the weights were trained on, in the same order",
            )
        return images
    names = imagenet_names()
    rows = class_rows(names, images.class_names, images.source)
    return images if images.class_names == names else KnownClasses(images, names, rows)


def class_rows(known: Sequence[str], wanted: Sequence[str], source: str) -> list[int]:
    """Where each wanted class stands among those that a network knows.

    Args:
        known: WordNet numbers of the network's classes.
        wanted: Names of the images' classes.
        source: Source of the images, for messages.

    Raises:
        DataError: A class is none of them, or its name is that of several.
    """
    if all(name.isdecimal() for name in wanted):
        return _counted([int(name) for name in wanted], len(known), source)
    places = _places(known)
    rows = []
    for name in wanted:
        found = places.get(_key(name), [])
        if len(found) != 1:
            meant = " and ".join(f"`{known[row]}`" for row in found)
            raise DataError(
                f"data `{source}`: class `{name}` is {f'both {meant}' if found else 'none'} of ImageNet's classes",
                hint="name the folders by WordNet numbers, as ImageNet does, for example `n01440764`; to train the"
                " network on classes of your own: `nas finish RUN --data FOLDER`",
            )
        rows += found
    return rows


def _counted(numbers: Sequence[int], count: int, source: str) -> list[int]:
    """Classes that are called by their places.

    Raises:
        DataError: They do not count from 0.
    """
    if max(numbers) >= count or (min(numbers) == 1 and len(numbers) >= count - 1):
        raise DataError(
            f"data `{source}`: classes are numbered from {min(numbers)} to {max(numbers)}, expected 0 to {count - 1} in"
            " the order of their WordNet numbers",
            hint="ImageNet's own numbers from 1 to 1000 stand in another order; name classes by WordNet numbers",
        )
    return list(numbers)


def _places(known: Sequence[str]) -> dict[str, list[int]]:
    """The places of each name that a class may be called by."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    places: dict[str, list[int]] = {}
    for row, number in enumerate(known):
        description = info.label_name_to_description(number)
        for name in {_key(name) for name in (number, description, *description.split(","))}:
            places.setdefault(name, []).append(row)
    return places


def _key(name: str) -> str:
    number = _NUMBER.match(name)
    return number[0] if number else re.sub(r"[\W_]+", " ", name).strip().casefold()


def held_out_halves(labels: IntArray, held_out: IntArray, names: Sequence[str], seed: int) -> dict[Part, IntArray]:
    """Images that a source holds out, half of each class for the search and half for the test.

    Args:
        labels: Class index of each image of the source.
        held_out: Indices of those that are held out.
        names: Names of all images.
        seed: Decides which half an image is in.
    """
    from supernets.data.image_data import divide

    found = divide(
        [names[index] for index in held_out.tolist()],
        labels[held_out],
        [str(label) for label in range(int(labels.max()) + 1)],
        seed,
        {"search": 0.5},
        "held out",
    )
    return {"search": held_out[found["search"]], "test": held_out[found["train"]]}
