"""Checkpoints of supernet training: one safetensors file with weights, their average where one is kept, optimizer
moments and JSON in its header.

Nothing is ever unpickled. A file is replaced whole or not at all, and says when it is damaged, foreign or of another
version.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from torch import Tensor

from search_spaces import Architecture, SearchSpace, SearchSpaceError, SingleSpace, get_space
from search_spaces.files import replacing
from search_spaces.json_file import check_fields, parse_json
from supernets.errors import CheckpointError
from supernets.family import family_of, training_form
from supernets.supernet import Supernet

SCHEMA = 1
CHECKPOINT_NAME = "supernet.safetensors"
HEADER_KEY = "nas.supernet"
_MODEL, _OPTIMIZER, _AVERAGE = "model.", "optimizer.", "average."
_TRAIN_AGAIN = "take an intact copy of the file, or train the supernet again"


class _NetworkMetadata(TypedDict, total=False):
    architecture: dict[str, Any] | None
    """The network, where the checkpoint is of a single one; absent or null for a supernet."""
    image_side: int
    """Side in pixels of the images that the space is for; absent for the space's own."""
    layout: str
    """How the shared tensors are laid out; absent for the way of the space's family."""
    imported: dict[str, Any]
    """Whose weights these are; absent where they were trained here."""


class CheckpointMetadata(_NetworkMetadata):
    """What a checkpoint says about itself; the JSON in its header."""

    schema: int
    space: str
    version: int
    classes: int
    step: int
    total_steps: int
    data: dict[str, Any]
    settings: dict[str, Any]
    training: dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        path: The file.
        weights: Shared tensors by name, as in the supernet's ``state_dict``.
        optimizer: Optimizer state by name, as it was saved.
        metadata: What the file says about itself.
        averages: Moving averages of the shared tensors by name; empty where none are kept.
    """

    path: Path
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    metadata: CheckpointMetadata
    averages: Mapping[str, Tensor] = field(default_factory=dict)


def save_checkpoint(
    path: Path,
    supernet: Supernet,
    optimizer_state: Mapping[str, Tensor],
    metadata: CheckpointMetadata,
    averages: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint; the file at ``path`` is either the old one or the whole new one, at any moment.

    Raises:
        CheckpointError: The file cannot be written; the old one is left as it was.
    """
    from safetensors.torch import save

    tensors = {f"{_MODEL}{name}": tensor for name, tensor in supernet.state_dict().items()}
    tensors |= {f"{_OPTIMIZER}{name}": tensor for name, tensor in optimizer_state.items()}
    tensors |= {f"{_AVERAGE}{name}": tensor for name, tensor in (averages or {}).items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {**metadata, "crc32": _crc32(tensors)}
    try:
        write_atomically(path, save(tensors, {HEADER_KEY: json.dumps(header)}))
    except OSError as error:
        kept = "; the last one is intact" if path.exists() else ""
        raise CheckpointError(
            f"checkpoint `{path}`: cannot be written: {error.strerror or error}{kept}",
            hint="free some space or choose another folder, then resume",
        ) from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a checkpoint file.

    Raises:
        CheckpointError: The file is missing, damaged, of another kind or of another version.
    """
    from safetensors import SafetensorError, safe_open

    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "nothing"
        raise CheckpointError(f"checkpoint `{path}`: found {found}, expected a file", hint="train a supernet first")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"checkpoint `{path}`: found {path.stat().st_size:,} bytes that are no whole safetensors file ({error}),"
            " expected a checkpoint of a supernet",
            hint=_TRAIN_AGAIN,
        ) from error
    if header is None:
        raise CheckpointError(
            f"checkpoint `{path}`: found a safetensors file without `{HEADER_KEY}` in its header, expected a"
            " checkpoint of a supernet",
            hint="give the `supernet.safetensors` of a run",
        )
    metadata = _read_header(path, header, tensors)
    weights, optimizer, averages = (_tensors_of(tensors, prefix) for prefix in (_MODEL, _OPTIMIZER, _AVERAGE))
    return Checkpoint(path, weights, optimizer, metadata, averages)


def restore_weights(checkpoint: Checkpoint, supernet: Supernet) -> None:
    """Copy a checkpoint's weights into a supernet of the same space.

    Raises:
        CheckpointError: The checkpoint is of another space, version or number of classes.
    """
    metadata, space = checkpoint.metadata, supernet.space
    _check_network(checkpoint, space)
    found = (metadata["space"], metadata["version"], metadata["classes"])
    expected = (space.name, space.version, space.classes)
    if found not in (expected, (space.name, space.base.older_version, space.classes)):
        raise CheckpointError(
            f"checkpoint `{checkpoint.path}`: found space `{found[0]}` version {found[1]} with {found[2]} classes,"
            f" expected `{expected[0]}` version {expected[1]} with {expected[2]}",
            hint="train a supernet of this space into a new run folder",
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in supernet.state_dict().items()}
    if shapes != wanted:
        name = sorted(name for name in {*shapes, *wanted} if shapes.get(name) != wanted.get(name))[0]
        raise CheckpointError(
            f"checkpoint `{checkpoint.path}`: tensor `{name}`: found {shapes.get(name, 'none')}, expected"
            f" {wanted.get(name, 'none')}",
            hint="the file was written by another release; train the supernet again",
        )
    supernet.load_state_dict(dict(checkpoint.weights))


def load_supernet(
    path: Path | str, device: torch.device | str = "cpu", *, to_train: bool = False
) -> tuple[Supernet, CheckpointMetadata]:
    """The supernet in a checkpoint, in evaluation mode, and what the checkpoint says about itself.

    Where the training kept a moving average of the weights, the supernet has the average.

    Args:
        path: The file.
        device: Device that the supernet is to be on.
        to_train: Whether it keeps tensors that are of no use but to train on, such as a classifier of patches.

    Raises:
        CheckpointError: The file is missing, damaged, or of a space that this release does not have.
    """
    checkpoint = read_checkpoint(Path(path))
    metadata = checkpoint.metadata
    try:
        space = space_of(metadata)
        family = family_of(space)
        extra = {name for name in checkpoint.weights if family.is_training_only(name)}
        space = training_form(space, image_side=metadata.get("image_side"), patch_classifier=to_train and bool(extra))
    except SearchSpaceError as error:
        raise CheckpointError(
            f"checkpoint `{path}`: {error}", hint=error.hint or "install the package that has the space"
        ) from error
    supernet = Supernet(space)
    weights = checkpoint.averages or checkpoint.weights
    if not to_train:
        weights = {name: tensor for name, tensor in weights.items() if name not in extra}
    restore_weights(replace(checkpoint, weights=weights), supernet)
    return supernet.to(device).eval(), metadata


def space_of(metadata: CheckpointMetadata) -> SearchSpace:
    """The space of a checkpoint's supernet, or of its one network.

    Raises:
        SearchSpaceError: This release does not have it.
    """
    space = get_space(metadata["space"], metadata["classes"])
    network, layout = metadata.get("architecture"), metadata.get("layout")
    if network is not None:
        return SingleSpace(space, space.parse(network))
    return space if layout is None else family_of(space).laid_out(space, layout)


def _check_network(checkpoint: Checkpoint, space: SearchSpace) -> None:
    found = checkpoint.metadata.get("architecture")
    if found is not None and space.architecture:
        found = space.base.updated(Architecture.from_dict(found)).to_dict()
    expected = space.architecture.to_dict() if space.architecture else None
    if found != expected:
        described = ["a supernet" if network is None else f"the network {network}" for network in (found, expected)]
        raise CheckpointError(
            f"checkpoint `{checkpoint.path}`: found weights of {described[0]}, expected {described[1]}",
            hint="train into a new run folder",
        )


def write_atomically(path: Path, contents: bytes) -> None:
    """Replace the file at ``path`` by one with ``contents``; on failure nothing of the attempt stays behind.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(contents)


def _tensors_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def parse_metadata(path: Path, header: str) -> CheckpointMetadata:
    """What a checkpoint says about itself, from the text in its header.

    Raises:
        CheckpointError: The text is damaged, or of another version.
    """
    try:
        data = parse_json(header)
        if not isinstance(data, dict):
            raise ValueError(f"found {type(data).__name__}, expected an object")
        schema = data["schema"]
        if schema == SCHEMA:
            check_fields(CheckpointMetadata, data)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"checkpoint `{path}`: its header is damaged: {error}", hint=_TRAIN_AGAIN) from error
    if schema != SCHEMA:
        raise CheckpointError(
            f"checkpoint `{path}`: found format {schema}, expected {SCHEMA}",
            hint="read it with the release that wrote it, or train the supernet again",
        )
    return cast(CheckpointMetadata, data)


def _read_header(path: Path, header: str, tensors: Mapping[str, Tensor]) -> CheckpointMetadata:
    data = parse_metadata(path, header)
    checksum = cast(dict[str, Any], data).pop("crc32", None)
    if checksum != _crc32(tensors):
        raise CheckpointError(
            f"checkpoint `{path}`: its tensors are damaged: found checksum {_crc32(tensors):08x}, expected"
            f" {f'{checksum:08x}' if type(checksum) is int else checksum}",
            hint=_TRAIN_AGAIN,
        )
    return data


def _crc32(tensors: Mapping[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return value
