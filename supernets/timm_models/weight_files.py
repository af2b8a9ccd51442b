"""Files of weights as they are handed around: safetensors, PyTorch's, and folders of timm and of Hugging Face.

No code of a file is ever run. Of a PyTorch file tensors and plain values are read; an object of any other class is
replaced by an inert one of ours, so that nothing is imported or called, and settings, metrics and whole pickled models
are no obstacle.
"""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from search_spaces.files import DAMAGED_ARCHIVE
from search_spaces.json_file import parse_json
from supernets.errors import CheckpointError

CONFIG_FILE, PREPROCESSOR_FILE = "config.json", "preprocessor_config.json"
INDEX = ".index.json"
NAMES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of weights in a folder that timm, a hub or we exported to, the first that is there counts."""
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
TORCHSCRIPT_HINT = "write its tensors first: `torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')`"
EXPECTED = "expected safetensors, a file of `torch.save`, or a folder with one of them"


class _Unread:
    """What stands for an object of a class that is not read: an empty dictionary, to which a file may add."""

    def __new__(cls, *_: object) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


class _UnreadArray:
    """What stands for numbers of NumPy, such as a metric that was saved beside the weights."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def find_weights(path: Path) -> Path:
    """The file of weights that a path means: the file itself, or the one in the folder.

    Raises:
        CheckpointError: There is none, or there are several to choose from.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"weights `{path}`: found nothing, expected a file or a folder of weights")
    for name in NAMES:
        for file in (path / name, path / (name + INDEX)):
            if file.is_file():
                return file
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if len(found) != 1:
        listed = ", ".join(f"`{file.name}`" for file in found[:5]) or "no weights"
        raise CheckpointError(
            f"weights `{path}`: found {listed}, expected `{NAMES[0]}`, its parts with an index, or one file",
            hint="name the file itself" if found else "give the folder that the model was saved to",
        )
    return found[0]


def beside(file: Path, name: str) -> dict[str, Any]:
    """A JSON object that lies beside a file of weights; empty where there is none.

    Raises:
        CheckpointError: It is not JSON, or no object.
    """
    path = file.with_name(name)
    if not path.is_file():
        return {}
    return _json(path)


def read_weights(file: Path) -> dict[str, Any]:
    """What a file holds: tensors by name, possibly in dictionaries of dictionaries, beside whatever else was saved.

    Raises:
        CheckpointError: The file cannot be read, or is of a kind that holds no tensors.
    """
    if file.name.endswith(INDEX):
        return _sharded(file)
    with file.open("rb") as opened:
        head = opened.read(9)
    if head[8:9] == b"{":
        return _safetensors(file)
    return _torch(file)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}", hint="expected JSON, as it was exported") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"`{path}`: found a {type(found).__name__}, expected a JSON object")
    return found


def _sharded(index: Path) -> dict[str, Any]:
    """The tensors of a model that was saved in pieces."""
    where = _json(index).get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise CheckpointError(f"`{index}`: found no `weight_map`, expected the file of every tensor")
    tensors: dict[str, Any] = {}
    for name in sorted(set(where.values())):
        piece = index.parent / name
        if Path(name).name != name or not piece.is_file():
            raise CheckpointError(f"`{index}` names `{name}`, which is not beside it", hint="download all its parts")
        tensors |= read_weights(piece)
    return tensors


def _safetensors(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"weights `{file}` cannot be read as safetensors: {error}", hint="take an intact copy of the file"
        ) from error


def _torch(file: Path) -> dict[str, Any]:
    import torch

    names = _members(file)
    if any(name.endswith(".npy") for name in names):
        raise CheckpointError(f"weights `{file}` are a NumPy archive, as JAX writes them", hint=EXPECTED)
    if any(name.endswith("constants.pkl") for name in names):
        raise CheckpointError(f"weights `{file}` are a TorchScript archive", hint=TORCHSCRIPT_HINT)
    try:
        with torch.serialization.safe_globals(_replaced_classes(file)):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a foreign file makes it trip over
        lines = str(error).partition("WeightsUnpickler error:")[2] or str(error) or type(error).__name__
        reason = lines.strip().splitlines()[0]
        raise CheckpointError(f"weights `{file}` cannot be read: {reason}", hint=EXPECTED) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"weights `{file}`: found a {type(found).__name__}, expected tensors by name")
    whole = dict(_tensors_of_module(found))
    return whole or {str(name): dict(_tensors_of_module(value)) or value for name, value in found.items()}


def _members(file: Path) -> list[str]:
    """Names of what a ZIP archive holds; nothing of other files."""
    try:
        if not zipfile.is_zipfile(file):
            return []
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except DAMAGED_ARCHIVE as error:
        raise CheckpointError(f"weights `{file}` cannot be read: {error}", hint=EXPECTED) from error


def _replaced_classes(file: Path) -> list[Any]:
    """What stands for each class or function in a file, by name, but for tensors and plain values."""
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        names = get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # the format before PyTorch 1.6, which is read as far as these go
        names = ["argparse.Namespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype"]
    return [(_UnreadArray if name.startswith("numpy") else _Unread, name) for name in names]


def _tensors_of_module(value: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by name of a pickled module, which was read without its class; nothing of other values."""
    state = vars(value) if isinstance(value, OrderedDict) else {}
    if "_modules" not in state:
        return
    passing = state.get("_non_persistent_buffers_set", set())
    for kind in ("_parameters", "_buffers"):
        for name, tensor in state.get(kind, {}).items():
            if isinstance(tensor, Tensor) and name not in passing:
                yield prefix + name, tensor
    for name, module in state["_modules"].items():
        yield from _tensors_of_module(module, f"{prefix}{name}.")
