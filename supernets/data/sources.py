"""Data sources by name: ours, those of other packages (entry points `nas.data_sources`), and what a program registers.

What a user types as data goes to the first source that understands it: sources that know their images by a name come
before folders and before datasets of timm.
"""

from __future__ import annotations

import difflib
import os

from search_spaces.plugins import Registry
from supernets.data.augmentation import get_augmentation
from supernets.data.digits import DigitsSource
from supernets.data.glyphs import GlyphSource
from supernets.data.image_data import DataSource, ImageData, LoadOptions, say_once
from supernets.data.image_files import FolderSource
from supernets.data.timm_datasets import TimmSource
from supernets.errors import DataError

_LAST: dict[str, DataSource] = {"folder": FolderSource(), "timm": TimmSource()}
SOURCES: Registry[DataSource] = Registry(
    "data source", "nas.data_sources", {DigitsSource.name: DigitsSource(), GlyphSource.name: GlyphSource()}
)


def register_data_source(name: str, source: DataSource) -> None:
    """Register a source of images for this process.

    Raises:
        ValueError: The name is taken.
    """
    if name in _LAST:
        raise ValueError(f"data source `{name}` is registered already")
    SOURCES.register(name, source)


def data_sources() -> dict[str, DataSource]:
    """All sources by name, in the order in which they are asked whether they understand a text."""
    return {**{name: SOURCES.get(name) for name in SOURCES.names()}, **_LAST}


def is_named(text: str) -> bool:
    """Whether a source knows its images by this text, so that it is no path even where a folder has the same name."""
    return any(source.understands(text) for name, source in data_sources().items() if name not in _LAST)


def load_data(
    source: str,
    image_side: int,
    seed: int = 0,
    workers: int | None = None,
    augmentation: str = "light",
    hflip: float | None = None,
    is_quiet: bool = False,
    trained_elsewhere: bool = False,
) -> ImageData:
    """Find images and divide them; what a user should know of them is said on the log, once in each process.

    Args:
        source: ``digits`` (1,797 scanned digits that come with scikit-learn), ``glyphs`` (13,860 distorted characters,
            see `supernets.data.glyphs`), a folder of images (a sub-folder per class, or such folders under ``train``,
            ``val`` and ``test``), a folder of WebDataset's shards (also ``wds/FOLDER``), a dataset of timm.data such as
            ``torch/cifar10`` or ``hfds/uoft-cs/cifar10``, or what a registered source understands.
        image_side: Side of the images in pixels.
        seed: Seed of the division. Runs with different training seeds should keep the default, so that what one trained
            on is never what another is tested on.
        workers: Processes that read and augment files; None takes one per free core. Results do not depend on it.
        augmentation: How training images are augmented: ``light``, or ``elasticvit`` or ``resnas`` as published, see
            `supernets.data.augmentation`. What mixes images is for the training to do. With ``light``, digits and
            glyphs are moved a little instead.
        hflip: Probability that a training image is mirrored; None for what suits the classes, see
            `supernets.data.mirroring`.
        is_quiet: Whether nothing is said, as in processes beside one that says it.
        trained_elsewhere: Whether weights were trained on the source's training images already, see `LoadOptions`.

    Raises:
        DataError: There is no such source, or nothing that can be trained on in it; the message says what is wrong.
    """
    options = LoadOptions(image_side, seed, workers, get_augmentation(augmentation), hflip, trained_elsewhere)
    sources = data_sources()
    for candidate in sources.values():
        if candidate.understands(source):
            images = candidate.load(source, options)
            for remark in () if is_quiet else images.remarks:
                say_once(f"data `{source}`: {remark}")
            return images
    names = [name for name, candidate in sources.items() if candidate.understands(name)]
    if os.path.isabs(source):
        raise DataError(
            f"data `{source}`: there is no such folder", hint="name the folder where the images lie now, by `--data`"
        )
    close = difflib.get_close_matches(source, names, n=1)
    *expected, last = [candidate.expected for candidate in sources.values()]
    raise DataError(
        f"data `{source}`: no such folder, and no source of that name",
        hint=f"did you mean `{close[0]}`?" if close else f"expected {', '.join(expected)}, or {last}",
    )
