"""Importers by name: ours, and those of other packages (entry points `nas.importers`)."""

from __future__ import annotations

from pathlib import Path

from search_spaces.plugins import Registry
from supernets.errors import CheckpointError
from supernets.importing.base import Found, Imported, Importer

_HERE = "supernets.importing"
IMPORTERS: Registry[Importer] = Registry(
    "importer",
    "nas.importers",
    {
        "autoformer": f"{_HERE}.autoformer:AUTOFORMER",
        "prenas": f"{_HERE}.autoformer:PRENAS",
        "elasticvit": f"{_HERE}.elasticvit:ELASTICVIT",
    },
)


def read_supernet(path: Path, space: str | None = None) -> Imported:
    """The supernet in somebody else's file, recognised by the names of its tensors; nothing in the file is ever run.

    Args:
        path: The file.
        space: Name of the space that it is of, where nothing in the file tells; None for what it looks like.

    Raises:
        UnknownNameError: There is no such space.
        CheckpointError: The file cannot be read, or holds no supernet that an importer knows.
    """
    found = Found.of(path)
    importers = list(IMPORTERS.values())
    for importer in importers:
        if importer.recognises(found, space):
            return importer.read(found, space)
    tensors = found.tensors(("model", "state_dict", "model_ema"))
    held = f"tensors such as {', '.join(f'`{name}`' for name in list(tensors)[:3])}" if tensors else "no tensors"
    *others, last = [importer.expected for importer in importers]
    of_space = "" if space is None else f" of space `{space}`"
    known = f"{', '.join(others)}, or {last}"
    raise CheckpointError(
        f"weights `{found.file}`: found {held}, expected a published supernet{of_space}: {known}",
        hint="a model of timm is searched by `nas search --model NAME --weights FILE`",
    )
