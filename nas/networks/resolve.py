"""Networks by what one types for them: a published architecture, a file, a run folder, an ONNX file or a timm name."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import UsageError
from search_spaces import Architecture, SearchSpace, find_architecture, get_space, space_kinds, space_names
from search_spaces.errors import ArchitectureError, UnknownNameError
from search_spaces.graph import OpGraph

if TYPE_CHECKING:
    from torch import nn

FORMS = (
    "`space/name`, an architecture as JSON or in a JSON file, a run folder (`RUN` or `RUN:knee`), an ONNX file, or a"
    " timm model"
)
"""What `resolve_network` understands, for messages."""

_COLOURS = 3


@dataclass(frozen=True)
class NamedNetwork:
    """A network that can be costed, and built unless it is an ONNX file.

    Attributes:
        name: What it is called in tables and messages.
        input_shape: ``(3, height, width)`` of the image that the network computes on.
        graph: Gives its op graph, for parameters, MACs and latency; traced or read at the first call, then kept.
        build: Gives a freshly initialised module on the default device; None for an ONNX file.
        onnx_path: Of an ONNX file; None for everything else.
        architecture: Of a network of a search space; None for everything else.
    """

    name: str
    input_shape: tuple[int, int, int]
    graph: Callable[[], OpGraph]
    build: Callable[[], nn.Module] | None
    onnx_path: Path | None = None
    architecture: Architecture | None = None


def resolve_network(text: str, image_side: int | None = None) -> NamedNetwork:
    """The network that ``text`` names.

    Args:
        text: A published architecture (``elastic/M``, ``elastic-mini/largest``) or one in its space's short form
            (``asvit:8,2,3|4,1,2|4,1,4|4,1,6|32``), a timm model as a space (``timm:NAME``, its largest network; or
            ``timm:NAME/smallest``), an architecture as JSON text or the path of a JSON file with one, a
            run folder (``RUN`` for its knee, ``RUN:best``, ``RUN:3``), the path of an ONNX file, or the name of a timm
            model.
        image_side: Side in pixels of the input, for timm models only; None takes the model's own.

    Raises:
        UnknownNameError: Nothing goes by this name; the hint names the closest.
        UsageError: The image side does not suit the network.
        ArchitectureError: The JSON holds no valid architecture.
        RunError: The run folder holds no readable result.
        LatencyError: The ONNX file cannot be read.
    """
    network = _of_a_space(text) or _of_a_file(text)
    if network is None:
        return timm_network(text, image_side)
    if image_side is not None and network.input_shape[1:] != (image_side, image_side):
        raise UsageError(
            f"network `{network.name}`: found image side {image_side}, expected {network.input_shape[-1]}, which is"
            " part of the network",
            hint="leave the image side out",
        )
    return network


def space_network(space: SearchSpace, architecture: Architecture, name: str) -> NamedNetwork:
    """A network of a search space.

    Args:
        space: Made for the right number of classes.
        architecture: Of that space.
        name: What to call it.
    """

    def build() -> nn.Module:
        from supernets import build_network

        return build_network(space, architecture)

    colours, height, width = space.input_shape(dict(architecture.settings))
    graph = functools.cache(lambda: space.lower(architecture))
    return NamedNetwork(name, (colours, height, width), graph, build, architecture=architecture)


def timm_network(name: str, image_side: int | None = None) -> NamedNetwork:
    """A timm model with random weights; nothing is downloaded.

    Raises:
        UnknownNameError: timm has no such model.
        UsageError: The model takes something else than colour images, or no image of this side.
    """
    import timm

    name = name.removeprefix("timm/")
    if not timm.is_model(name):
        raise _unknown(name, timm.list_models())
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    colours, height, width = config.input_size if config is not None else (_COLOURS, 224, 224)
    if colours != _COLOURS:
        raise UsageError(f"timm model `{name}` takes {colours} channels, expected {_COLOURS}")
    if image_side is not None:
        height = width = image_side
    shape = (colours, height, width)

    def build() -> nn.Module:
        return _create(name, None if image_side is None else (height, width))

    def graph() -> OpGraph:
        from latency_tables.trace import trace

        return trace(_on_meta(build), shape, name)

    return NamedNetwork(name, shape, functools.cache(graph), build)


def onnx_network(path: Path) -> NamedNetwork:
    """The network in an ONNX file; only its structure is read, no weights.

    Raises:
        LatencyError: The file is missing, holds no ONNX model, or its shapes are not fixed.
    """
    from latency_tables.onnx_graph import read_onnx_graph

    graph = read_onnx_graph(path)
    colours, height, width = graph.source_shape
    return NamedNetwork(path.name, (colours, height, width), lambda: graph, None, onnx_path=path)


def _of_a_space(text: str) -> NamedNetwork | None:
    if text.lstrip().startswith("{"):
        return _from_json(Architecture.from_json(text))
    is_of_a_kind = ":" in text and text.partition(":")[0] in space_kinds()
    if not is_of_a_kind and (re.split("[/:]", text, maxsplit=1)[0] not in space_names() or text in space_names()):
        return None
    space, architecture = find_architecture(text)
    return space_network(space, architecture, text)


def _of_a_file(text: str) -> NamedNetwork | None:
    path = Path(text)
    if path.suffix == ".onnx":
        return onnx_network(path)
    if path.suffix == ".json":
        return _from_json_file(path)
    folder, _, pick = text.rpartition(":")
    if path.is_dir():
        return _from_run(path, None)
    if pick and folder and Path(folder).is_dir():
        return _from_run(Path(folder), pick)
    return None


def _from_json_file(path: Path) -> NamedNetwork:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"architecture file `{path}` cannot be read: {reason}") from error
    try:
        return _from_json(Architecture.from_json(text), name=path.stem)
    except ArchitectureError as error:
        raise ArchitectureError(f"`{path}`: {error}") from error


def _from_json(architecture: Architecture, name: str = "") -> NamedNetwork:
    space = get_space(architecture.space)
    return space_network(space, space.parse(architecture.to_dict()), name or f"{space.name}/given")


def _from_run(folder: Path, pick: str | None) -> NamedNetwork:
    from nas.result import load_result
    from nas.searching.settings import recorded_settings

    settings = recorded_settings(folder) or {}
    if settings.get("command") in ("train", "finish"):
        architecture, name = _trained_architecture(folder, pick, settings), str(folder)
    else:
        architecture, name = load_result(folder).pick(pick or "knee").architecture, f"{folder}:{pick or 'knee'}"
    space = get_space(architecture.space, _run_classes(folder, settings))
    return space_network(space, space.parse(architecture.to_dict()), name)


def _trained_architecture(folder: Path, pick: str | None, settings: Mapping[str, Any]) -> Architecture:
    if settings.get("architecture") is None:
        raise UsageError(
            f"`{folder}` holds a supernet, expected one network", hint="search it, or name a network of its space"
        )
    if pick is not None:
        raise UsageError(f"`{folder}` holds the training of one network, found pick `{pick}`", hint=f"name `{folder}`")
    return Architecture.from_dict(settings["architecture"])


def _run_classes(folder: Path, settings: Mapping[str, Any]) -> int | None:
    """The number of classes that a run's weights tell apart; None where the run has none."""
    from nas.training.train import supernet_checkpoint

    if settings.get("supernet") is not None:
        path = supernet_checkpoint(Path(settings["supernet"]))
    elif settings.get("data") is not None:
        path = supernet_checkpoint(folder)
    else:
        return None
    return int(checkpoint_header(path)["classes"])


def checkpoint_header(path: Path) -> Mapping[str, Any]:
    """What a checkpoint says about itself, without its tensors being read or checked.

    Raises:
        CheckpointError: The header cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    from supernets.errors import CheckpointError

    try:
        with safe_open(path, framework="np") as file:
            header: Mapping[str, Any] = json.loads(file.metadata()["nas.supernet"])
            return header
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint `{path}`: its header cannot be read: {error}") from error


def _create(name: str, image_size: tuple[int, int] | None) -> nn.Module:
    import timm

    if image_size is None:
        return _module(timm.create_model(name))
    try:
        return _module(timm.create_model(name, img_size=image_size))
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return _module(timm.create_model(name))  # convolutional: takes any size
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"timm model `{name}`: images of {image_size[0]} x {image_size[1]} pixels do not suit it: {error}",
            hint="leave the image size out, or take a multiple of the model's patches and windows",
        ) from error


def _module(created: Any) -> nn.Module:
    from torch import nn

    assert isinstance(created, nn.Module)
    return created


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The module without memory for its weights where its constructor allows that."""
    import torch

    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, NotImplementedError):  # it computes with its own tensors while it is built
        return build()


def _unknown(name: str, models: Iterable[str]) -> UnknownNameError:
    published = [f"{space}/{known}" for space in space_names() for known in (*get_space(space).named, "largest")]
    names = [*models, *published]
    error = UnknownNameError("network", name, names)
    if not difflib.get_close_matches(name, names, n=1):
        error.hint = f"expected {FORMS}"
    return error
