"""A published supernet as a run folder that can be searched, finished from and exported from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from nas.runs.folder import IMPORT, source_card, supernet_checkpoint
from nas.runs.run import Run, next_run_folder
from nas.training.request import find_network
from search_spaces import Architecture, SearchSpace, SingleSpace

if TYPE_CHECKING:
    from supernets.importing.base import Imported
    from supernets.supernet import Supernet


@dataclass(frozen=True)
class ImportResult:
    """What became of a file of weights.

    Attributes:
        run: The run folder.
        space: Name of the space that its networks belong to.
        architecture: The one network that was taken out; None for the whole supernet.
        classes: Classes that the weights tell apart.
        numbers: How many numbers the shared tensors have.
        origin: Where the weights are from, see `supernets.importing.base.Origin`, with ``file`` and ``sha256``.
        notes: What is worth saying, a sentence each.
    """

    run: Path
    space: str
    architecture: Architecture | None
    classes: int
    numbers: int
    origin: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        """The file with the weights."""
        return supernet_checkpoint(self.run)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        network = None if self.architecture is None else self.architecture.to_dict()
        return {"schema": 1, **asdict(self), "run": str(self.run), "architecture": network, "notes": list(self.notes)}


def import_supernet(
    file: Path | str,
    output: Path | str | None = None,
    *,
    space: str | None = None,
    arch: str | None = None,
    force: bool = False,
) -> ImportResult:
    """Read a supernet that others trained, from their file, into a run folder.

    The file is recognised by the names of its tensors (`supernets.importing`). Nothing in it is ever run.

    Args:
        file: File of weights.
        output: Run folder to write; None takes a new one.
        space: Name of the space, where nothing in the file tells; None for what the file looks like.
        arch: Network to take out alone; None keeps the whole supernet.
        force: Whether to throw away first what ``output`` holds.

    Raises:
        CheckpointError: The file cannot be read, or holds no supernet that is known.
        UnknownNameError: There is no such space or network.
        RunError: The run folder cannot be used.
    """
    from supernets.importing.registry import read_supernet

    path = Path(file)
    imported = read_supernet(path, space)
    found = imported.supernet.space
    architecture = None if arch is None else find_network(arch, found.name)
    if architecture is not None and architecture.space != found.name:
        raise UsageError(f"network `{arch}` is of space `{architecture.space}`, the weights are of `{found.name}`")
    supernet = imported.supernet if architecture is None else _alone(imported.supernet, architecture)
    origin = {**asdict(imported.origin), "file": path.name, "sha256": _digest(path)}
    folder = next_run_folder(f"{found.name}-imported") if output is None else Path(output)
    document: dict[str, Any] = {
        "command": IMPORT,
        "space": found.name,
        "seed": 0,
        "architecture": None if architecture is None else architecture.to_dict(),
        "data": None,
        "card": {"source_model": source_card(origin)},
    }
    with Run(folder, document, seed=0, force=force) as run:
        _save(run.path, supernet, imported, architecture, origin)
    numbers = sum(parameter.numel() for parameter in supernet.network.parameters())
    notes = (*imported.origin.remarks, *imported.notes)
    return ImportResult(folder, found.name, architecture, found.classes, numbers, origin, notes)


def _alone(supernet: Supernet, architecture: Architecture) -> Supernet:
    from supernets.supernet import Supernet

    space: SearchSpace = SingleSpace(_plain(supernet.space), architecture)
    network = Supernet(space)
    network.network.load_state_dict(supernet.extract(architecture).state_dict())
    return network.eval()


def _plain(space: SearchSpace) -> SearchSpace:
    """The space without the layout of somebody else's shared tensors, which one network has not."""
    from search_spaces import get_space

    return get_space(space.name, space.classes)


def _save(
    run: Path, supernet: Supernet, imported: Imported, architecture: Architecture | None, origin: Mapping[str, Any]
) -> None:
    from supernets.checkpoint import SCHEMA, CheckpointMetadata, save_checkpoint
    from supernets.data.known_classes import imagenet_described

    space = supernet.space
    metadata = CheckpointMetadata(
        schema=SCHEMA,
        space=space.name,
        version=space.version,
        classes=space.classes,
        step=0,
        total_steps=0,
        data={"source": "", "image_side": space.image_side, **imagenet_described(space.classes)},
        settings={},
        training={},
        imported=dict(origin),
    )
    if architecture is not None:
        metadata["architecture"] = architecture.to_dict()
    elif imported.layout:
        metadata["layout"] = imported.layout
    save_checkpoint(supernet_checkpoint(run), supernet, {}, metadata)


def _digest(path: Path) -> str:
    from supernets.timm_models.weight_files import find_weights

    with find_weights(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
