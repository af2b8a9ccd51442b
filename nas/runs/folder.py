"""What a run folder says of its run: settings, weights, and the one network that it may hold."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from nas.errors import RunError
from nas.records.files import read_json
from nas.runs.places import located
from search_spaces import Architecture
from search_spaces.json_file import check_fields

if TYPE_CHECKING:
    from supernets.checkpoint import CheckpointMetadata

CHECKPOINTS, FINISHED, EXITS = "checkpoints", "finished", "exits"
TRAINING = "training"
"""Folder among the checkpoints of a finish that holds those of its training."""
ORIGINAL_NAME = "original.safetensors"
IMPORT = "import"
_OF_A_TRAINING = ("train", "finish", IMPORT)


class _Recorded(TypedDict, total=False):
    """What is common to the settings of all verbs."""

    command: str
    space: str
    seed: int
    architecture: dict[str, Any] | None
    data: str | None
    supernet: str | None
    options: dict[str, Any] | None
    training: dict[str, Any] | None
    card: dict[str, Any] | None
    digest: str | None
    budget_seconds: float | None
    training_seconds: float | None
    search_seconds: float | None
    suggested: list[list[int]] | None
    sensitivities: list[list[float]] | None
    winner_seconds: float | None


class _Training(TypedDict, total=False):
    """Files that the settings of a training name."""

    teacher_weights: list[str]


class _Card(TypedDict, total=False):
    """What a model card says of the network beside its training."""

    latency: dict[str, dict[str, Any]]
    sources: list[str]
    objectives: dict[str, float]
    source_model: dict[str, str | None]


class RunFolder:
    """A run folder to read from.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        settings: What the run was asked; empty where no run was started there.

    Raises:
        RunError: The settings cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: Mapping[str, Any] = recorded_settings(path) or {}

    @property
    def command(self) -> str | None:
        """The verb that made the run: ``search``, ``train``, ``finish``, ``scale`` or ``import``; None without one."""
        return self.settings.get("command")

    def setting(self, name: str) -> Any:
        """A setting that every run of its verb records.

        Raises:
            RunError: It is not there.
        """
        if name not in self.settings:
            raise RunError(
                f"`{self.path / 'settings.json'}` is damaged: `{name}` is missing",
                hint="restore the file from a copy, or start a new run",
            )
        return self.settings[name]

    @property
    def is_training(self) -> bool:
        """Whether the run trained, or imported, a supernet or one network, rather than searched."""
        return self.command in _OF_A_TRAINING

    @property
    def architecture(self) -> Architecture | None:
        """The one network that the run trained; None for a supernet or a search."""
        recorded = self.settings.get("architecture")
        return None if recorded is None else Architecture.from_dict(recorded)

    @property
    def checkpoint(self) -> Path | None:
        """The weights that the run's networks are judged by, its own or its supernet's; None for untrained networks."""
        if self.command == IMPORT:
            return supernet_checkpoint(self.path)
        if self.settings.get("supernet") is not None:
            return supernet_checkpoint(Path(self.settings["supernet"]))
        if self.settings.get("budget_seconds") == 0 or self.settings.get("train") == "winner":  # judged untrained
            return self.original
        return None if self.settings.get("data") is None else supernet_checkpoint(self.path)

    def find_weights(self) -> Path | None:
        """The `checkpoint`, after its digest was compared where it lies in another run; None for untrained networks.

        Raises:
            CheckpointError: It is gone, or not the one that the run was started with.
        """
        path, expected = self.checkpoint, self.settings.get("supernet_digest")
        if path is None or expected is None:
            return path
        if path.is_file() and checkpoint_digest(path) == expected:
            return path
        from supernets.errors import CheckpointError

        found = "another one" if path.is_file() else "nothing"
        raise CheckpointError(
            f"checkpoint `{path}`: found {found}, expected the supernet that `{self.path}` searched",
            hint=f"where it has moved: `nas search --resume {self.path} --supernet FOLDER`",
        )

    @property
    def original(self) -> Path:
        """Where the model that a search began with is kept, as it was before training; not every run has one."""
        return original_checkpoint(self.path)

    @property
    def classes(self) -> int | None:
        """The number of classes that the run's weights tell apart; None for untrained networks.

        Raises:
            CheckpointError: The header of the checkpoint cannot be read.
        """
        return None if self.checkpoint is None else int(checkpoint_header(self.checkpoint)["classes"])


def check_same(folder: Path, name: str, recorded: object, found: object) -> None:
    """Make sure that a setting is what it was when the run was started.

    Raises:
        RunError: It is not.
    """
    if recorded != found:
        raise RunError(
            f"run folder `{folder}`: `{name}` was {recorded!r} when the run was started, found {found!r}",
            hint="start a new run for another value",
        )


def recorded_settings(folder: Path) -> dict[str, Any] | None:
    """The settings in a run folder, paths as they are found now; None where no run was started there yet.

    Raises:
        RunError: They cannot be read, or are not what a run writes.
    """
    path = folder / "settings.json"
    if not path.exists():
        return None
    recorded = read_json(path)
    try:
        check_fields(_Recorded, recorded)
        check_fields(_Card, recorded.get("card") or {})
        for name in ("options", "training"):
            check_fields(_Training, recorded.get(name) or {})
    except ValueError as error:
        raise RunError(
            f"`{path}` is damaged: {error}", hint="restore the file from a copy, or start a new run"
        ) from error
    return located(recorded, folder)


def source_card(origin: Mapping[str, Any]) -> dict[str, str | None]:
    """What a model card says of where imported weights are from.

    Args:
        origin: The entry ``imported`` of their checkpoint.
    """
    return {
        name: str(origin.get(key, "")) for name, key in (("name", "title"), ("weights", "page"), ("license", "license"))
    }


def supernet_checkpoint(path: Path) -> Path:
    """The checkpoint of a run folder, or the checkpoint itself."""
    return path / CHECKPOINTS / "supernet.safetensors" if os.path.isdir(path) else path


def checkpoint_digest(path: Path) -> str:
    """The beginning of the SHA-256 of a file of weights, by which a run knows it again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def original_checkpoint(run: Path) -> Path:
    """The file in a run folder that holds the model as it was before training."""
    return run / CHECKPOINTS / ORIGINAL_NAME


def checkpoint_header(path: Path) -> CheckpointMetadata:
    """What a checkpoint says about itself, without its tensors being read or checked.

    Raises:
        CheckpointError: The header cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    from supernets.checkpoint import HEADER_KEY, parse_metadata
    from supernets.errors import CheckpointError

    try:
        with safe_open(path, framework="np") as file:
            header = str(file.metadata()[HEADER_KEY])
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint `{path}`: its header cannot be read: {error}") from error
    return parse_metadata(path, header)


def seconds_left(budget: float | None, checkpoints: Path | None) -> float | None:
    """What a training has left of its budget of seconds; None without one.

    Args:
        budget: Seconds for all of it.
        checkpoints: Folder of its checkpoint; None for a training that begins.
    """
    if budget is None or checkpoints is None:
        return budget
    return max(budget - trained_seconds(checkpoints), 0.0)


def trained_seconds(checkpoints: Path) -> float:
    """The seconds that a training has taken so far, as its checkpoint says; 0 where there is none that can be read."""
    from supernets.checkpoint import CHECKPOINT_NAME
    from supernets.errors import CheckpointError

    try:
        return float(checkpoint_header(checkpoints / CHECKPOINT_NAME)["training"]["seconds"])
    except CheckpointError:
        return 0.0  # whoever goes on with the training says what is wrong
