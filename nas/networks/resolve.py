"""Networks by what one types for them: a published architecture, a file, a run folder, an ONNX file or a timm name."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Any

from nas.errors import RunError, UsageError
from nas.networks.named import NamedNetwork, onnx_network, space_network, timm_network
from nas.records.files import read_json
from nas.runs.folder import RunFolder
from nas.runs.front import load_front
from search_spaces import Architecture, find_architecture, get_space, space_kinds, space_names
from search_spaces.errors import ArchitectureError, UnknownNameError
from search_spaces.timm_models import PREFIX, TimmModelError, TimmReference

EXPORT_FILE = "config.json"

FORMS = (
    "`space/name`, an architecture as JSON or in a JSON file, a run folder (`RUN` or `RUN:knee`), an exported folder,"
    " an ONNX file, or a timm model (`NAME` or `NAME?argument=value`)"
)
"""What `resolve_network` understands, for messages."""


def resolve_network(text: str, image_side: int | None = None) -> NamedNetwork:
    """The network that ``text`` names.

    Args:
        text: A published architecture (``elastic/M``, ``elastic-mini/largest``) or one in its space's short form
            (``asvit:8,2,3|4,1,2|4,1,4|4,1,6|32``), a timm model as a space (``timm:NAME``, its largest network; or
            ``timm:NAME/smallest``), an architecture as JSON text or the path of a JSON file with one, a
            run folder (``RUN`` for its knee, ``RUN:best``, ``RUN:3``), an exported folder, the path of an ONNX file, or
            a timm model (``NAME``, ``NAME?argument=value``, ``timm/NAME``, ``hf-hub:timm/NAME``).
        image_side: Side in pixels of the input, for timm models only; None takes the model's own.

    Raises:
        UnknownNameError: Nothing goes by this name; the hint names the closest.
        UsageError: The image side does not suit the network.
        ArchitectureError: The JSON holds no valid architecture.
        RunError: The run folder holds no readable result.
        LatencyError: The ONNX file cannot be read.
    """
    if not text.strip():
        raise UsageError("the name of the network is blank", hint=f"expected {FORMS}")
    network = _of_a_space(text) or _of_a_file(text)
    if network is None:
        return _of_timm(text, image_side)
    if image_side is not None and network.input_shape[1:] != (image_side, image_side):
        raise UsageError(
            f"network `{network.name}`: found image side {image_side}, expected {network.input_shape[-1]}, which is"
            " part of the network",
            hint="leave the image side out",
        )
    return network


def resolve_architecture(text: str) -> Architecture:
    """The architecture of the network that ``text`` names; of a timm model, the largest one of its space.

    Raises:
        UsageError: It is an ONNX file, or folder of a timm model.
        TimmModelError: It is a timm model that cannot be made elastic.
        NasError: As `resolve_network`.
    """
    network = resolve_network(text)
    if network.architecture is not None:
        return network.architecture
    if network.onnx_path is not None or Path(text).exists():
        raise UsageError(
            f"`{text}` belongs to no search space, expected a network that is built and trained here",
            hint="name one as `space/name`, or give a JSON file or a run folder",
        )
    return get_space(f"{PREFIX}:{TimmReference.parse(text).text}").largest


def _of_a_space(text: str) -> NamedNetwork | None:
    if text.lstrip().startswith("{"):
        return _from_json(Architecture.from_json(text))
    is_of_a_kind = ":" in text and text.partition(":")[0] in space_kinds()
    if not is_of_a_kind and (re.split("[/:]", text, maxsplit=1)[0] not in space_names() or text in space_names()):
        return None
    try:
        space, architecture = find_architecture(text)
    except TimmModelError:
        if "/" in text:
            raise
        return timm_network(text)  # a model that cannot be made elastic is a network all the same
    return space_network(space, architecture, text)


def _of_a_file(text: str) -> NamedNetwork | None:
    path = Path(text)
    if path.suffix.lower() == ".onnx":
        return onnx_network(path)
    if path.suffix.lower() == ".json":
        return _from_json_file(path)
    folder, _, pick = text.rpartition(":")
    if os.path.isdir(text):  # unlike the method of a path, it takes any text
        is_export = (path / EXPORT_FILE).is_file() and not RunFolder(path).settings
        return _from_export(path) if is_export else _from_run(path, None)
    if pick and folder and os.path.isdir(folder):
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


def _of_timm(text: str, image_side: int | None) -> NamedNetwork:
    import timm

    reference = TimmReference.parse(text)
    if timm.is_model(reference.name):
        return timm_network(text, image_side)
    published = [f"{space}/{known}" for space in space_names() for known in (*get_space(space).named, "largest")]
    names = [*timm.list_models(), *published]
    error = UnknownNameError("network", reference.name, names)
    if not difflib.get_close_matches(reference.name, names, n=1):
        error.hint = f"expected {FORMS}"
    raise error


def _from_export(path: Path) -> NamedNetwork:
    """The network of a folder that `nas export` or timm wrote."""
    config = read_json(path / EXPORT_FILE)
    described: Any = config.get("subnet", config.get("architecture"))
    try:
        if isinstance(described, str):
            given = {**config.get("model_args", {}), "num_classes": config["num_classes"]}
            return timm_network(TimmReference(described, tuple(sorted(given.items()))).text)
        architecture = Architecture.from_dict(described)
        space = get_space(architecture.space, config["network"]["classes"])
        return space_network(space, space.parse(described), str(path))
    except (ArchitectureError, KeyError, TypeError, AttributeError) as error:
        raise RunError(
            f"`{path / EXPORT_FILE}` does not describe a network: {type(error).__name__}: {error}",
            hint="expected what `nas export` or timm writes",
        ) from error


def _from_run(path: Path, pick: str | None) -> NamedNetwork:
    run = RunFolder(path)
    if run.is_training:
        architecture, name = _trained_architecture(run, pick), str(path)
    else:
        front = load_front(path)
        pick = pick or front.default_pick
        architecture, name = front.pick(pick).architecture, f"{path}:{pick}"
    space = get_space(architecture.space, run.classes)
    return space_network(space, space.parse(architecture.to_dict()), name)


def _trained_architecture(run: RunFolder, pick: str | None) -> Architecture:
    if run.architecture is None:
        raise UsageError(
            f"`{run.path}` holds a supernet, expected one network", hint="search it, or name a network of its space"
        )
    if pick is not None:
        raise UsageError(
            f"`{run.path}` holds the training of one network, found pick `{pick}`", hint=f"name `{run.path}`"
        )
    return run.architecture
