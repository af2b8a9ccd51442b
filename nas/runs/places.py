"""Where lies what a run was given: images, weights, checkpoints, other runs.

Paths are recorded absolute, and the run folder says where it lay itself. So a run can be used from any folder, and what
has moved together with it is found. Runs of earlier versions may hold relative paths, which are tried from the current
folder, from the run folder, and from those above it. Whatever is found is then compared with what the run knows of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernets.checkpoint import CheckpointMetadata
    from supernets.data.image_data import ImageData

FOLDER = "folder"
"""Where the run folder lay when its paths were recorded."""
PLACES = ("data", "supernet", "weights", "run", "accuracies")
"""Settings that name a place, so that a run which goes on may be given another one for the same thing."""
TEACHERS = "teacher_weights"
_WORDS = ("pretrained", "random")


def recorded_place(name: str, text: str) -> str:
    """A place as it is recorded: absolute where something lies there; names of data and the like as they are."""
    return os.path.abspath(text) if os.path.exists(text) and not _is_name(name, text) else text


def shown_place(text: str) -> str:
    """A recorded place as it may be told to strangers: without the folders that it lies in."""
    return os.path.basename(text) if os.path.isabs(text) else text


def located(settings: Mapping[str, Any], run: Path) -> dict[str, Any]:
    """Recorded settings of a run with the places where things lie now, as far as they are found."""
    was = settings.get(FOLDER)
    was = was if isinstance(was, str) else None
    places = {
        name: _found(settings[name], run, was)
        for name in PLACES
        if isinstance(settings.get(name), str) and not _is_name(name, settings[name])
    }
    inside: dict[str, Any] = {}
    for name in ("options", "training"):
        options = settings.get(name)
        if isinstance(options, dict) and options.get(TEACHERS):
            files = [_found(file, run, was) for file in options[TEACHERS]]
            inside[name] = {**options, TEACHERS: files}
    return {**settings, **places, **inside}


def identity_of(images: ImageData | None) -> dict[str, Any]:
    """What a run records of its images, so that they are known again at another place."""
    return {"data_digest": None if images is None else images.division.digest}


def check_images(images: ImageData, recorded: Mapping[str, Any]) -> None:
    """Make sure that images are those that a run was started with, as far as it recorded that.

    Raises:
        DataError: They are others.
    """
    if recorded.get("data_digest") is not None:
        images.check_digest(recorded["data_digest"])


def source_beside(checkpoint: Path, source: str) -> str:
    """The images that a checkpoint was trained on, where they lie now.

    Args:
        checkpoint: The file, in the ``checkpoints`` of a run folder or alone.
        source: What the file says.
    """
    from nas.records.files import read_json

    run = checkpoint.absolute().parent.parent
    settings = run / "settings.json"
    known = read_json(settings) if settings.is_file() else {}
    return str(located({"data": source, FOLDER: known.get(FOLDER)}, run)["data"])


def images_of(checkpoint: Path, metadata: CheckpointMetadata, data: str | None, is_quiet: bool = False) -> ImageData:
    """The images that the networks of a checkpoint are judged on.

    Args:
        checkpoint: The file.
        metadata: What it says about itself.
        data: Source of the images; None for those that the weights were trained on.
        is_quiet: Whether nothing is said of the images.

    Raises:
        DataError: They cannot be used, or are not those that the weights were trained on, or for.
    """
    from supernets.data.known_classes import with_known_classes
    from supernets.data.sources import load_data
    from supernets.errors import DataError

    described, is_imported = metadata["data"], "imported" in metadata
    if data is None and is_imported:
        raise DataError(
            f"weights `{checkpoint}` were imported without images, and accuracy needs some",
            hint="add `--data`, a folder of labelled images of the classes that they tell; without images one network"
            " can be taken out: `nas import FILE --arch NAME`",
        )
    images = load_data(
        data or source_beside(checkpoint, described["source"]),
        described["image_side"],
        hflip=metadata["settings"].get("hflip"),
        is_quiet=is_quiet,
        trained_elsewhere=is_imported,
    )
    if is_imported:
        return with_known_classes(images, metadata["classes"], described)
    images.check(described)
    return images


def _is_name(name: str, text: str) -> bool:
    if name != "data":
        return name == "weights" and text in _WORDS
    from supernets.data.sources import is_named

    return is_named(text)


def _found(text: str, run: Path, was: str | None) -> str:
    here = os.path.abspath(run)
    if os.path.exists(text):
        return os.path.abspath(text)
    if not os.path.isabs(text):
        tried = [os.path.join(folder, text) for folder in (here, *map(str, Path(here).parents))]
    else:
        tried = [os.path.join(here, os.path.relpath(text, was))] if was else []
    return next((path for path in map(os.path.normpath, tried) if os.path.exists(path)), text)
