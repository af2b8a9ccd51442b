"""A network with a name: what it costs, and how its module is built."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_tables.evidence import group_of
from nas.errors import UsageError
from search_spaces import Architecture, SearchSpace, get_space
from search_spaces.errors import UnknownNameError
from search_spaces.graph import OpGraph
from search_spaces.timm_models import PREFIX, TimmReference

if TYPE_CHECKING:
    from torch import nn

_COLOURS = 3
LARGEST_SIDE = 8192
SIDE_ARGUMENT = "img_size"


@dataclass(frozen=True)
class NamedNetwork:
    """A network that can be costed, and built unless it is an ONNX file.

    Attributes:
        name: What it is called in tables and messages.
        input_shape: ``(3, height, width)`` of the image that the network computes on.
        graph: Gives its op graph, for parameters, MACs and latency; traced or read at the first call, then kept.
        build: Gives a freshly initialised module on the default device; None for an ONNX file.
        onnx_path: The ONNX file; None for everything else.
        architecture: Its architecture, for a network of a search space; None for everything else.
        precision: What it computes in, as `latency_tables.onnx_graph.OnnxGraph` says.
        notes: What the reader of its numbers should know, one sentence each.
        group: Group of networks that it is one of, as `latency_tables.evidence.group_of` names it; empty for a file.
    """

    name: str
    input_shape: tuple[int, int, int]
    graph: Callable[[], OpGraph]
    build: Callable[[], nn.Module] | None
    onnx_path: Path | None = None
    architecture: Architecture | None = None
    precision: str = "fp32"
    notes: tuple[str, ...] = ()
    group: str = ""

    def deployed(self) -> nn.Module:
        """A new module with random weights in the form in which it is deployed, which is what latency is of."""
        from supernets import family_of

        assert self.build is not None, self.name
        module = self.build().eval()
        return module if self.architecture is None else family_of(get_space(self.architecture.space)).deploy(module)


def space_network(space: SearchSpace, architecture: Architecture, name: str) -> NamedNetwork:
    """A network of a search space.

    Args:
        space: Made for the right number of classes.
        architecture: An architecture of that space.
        name: What to call it.
    """

    def build() -> nn.Module:
        from supernets import build_network

        return build_network(space, architecture)

    colours, height, width = space.input_shape(dict(architecture.settings))
    graph = functools.cache(lambda: space.lower(architecture))
    shape = (colours, height, width)
    return NamedNetwork(name, shape, graph, build, architecture=architecture, group=group_of(space))


def timm_network(text: str, image_side: int | None = None) -> NamedNetwork:
    """A timm model with random weights; nothing is downloaded.

    Args:
        text: Its name, with arguments where wanted, as `search_spaces.timm_models.TimmReference.parse` reads it.
        image_side: Side in pixels of the image; None takes that of the arguments, or the model's own.

    Raises:
        UnknownNameError: timm has no such model.
        TimmModelError: An argument makes no sense.
        UsageError: The model takes something else than colour images, or no image of this side.
    """
    import timm

    reference = TimmReference.parse(text)
    name, arguments = reference.name, dict(reference.arguments)
    if not timm.is_model(name):
        raise UnknownNameError("timm model", name, timm.list_models())
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        known = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        raise UnknownNameError("timm model", name, known or timm.list_models()) from error
    colours, height, width = config.input_size if config is not None else (_COLOURS, 224, 224)
    if colours != _COLOURS:
        raise UsageError(f"timm model `{name}` takes {colours} channels, expected {_COLOURS}")
    own_side = arguments.pop(SIDE_ARGUMENT, None)
    asked = own_side if image_side is None else image_side
    if asked is not None:
        height, width = _sides(reference, asked)
    shape = (colours, height, width)

    def build() -> nn.Module:
        return _create(reference, arguments, None if asked is None else (height, width))

    def graph() -> OpGraph:
        from latency_tables.trace import trace

        return trace(_on_meta(build), shape, name)

    group = "" if image_side else f"{PREFIX}:{reference.model}"
    return NamedNetwork(reference.model, shape, functools.cache(graph), build, group=group)


def _sides(reference: TimmReference, asked: object) -> tuple[int, int]:
    """Height and width in pixels."""
    sides = asked if isinstance(asked, tuple) else (asked, asked)
    if len(sides) != 2 or any(type(side) is not int or not 0 < side <= LARGEST_SIDE for side in sides):
        raise UsageError(
            f"timm model `{reference.name}`: found image size {asked}, expected pixels from 1 to {LARGEST_SIDE}"
        )
    return sides


def onnx_network(path: Path) -> NamedNetwork:
    """The network in an ONNX file; only its structure is read, no weights.

    Raises:
        LatencyError: The file is missing, holds no ONNX model, or its shapes are not fixed.
    """
    from latency_tables.onnx_graph import read_onnx_graph

    graph = read_onnx_graph(path)
    colours, height, width = graph.source_shape
    shape = (colours, height, width)
    return NamedNetwork(
        path.name, shape, lambda: graph, None, onnx_path=path, precision=graph.precision, notes=graph.notes
    )


def _create(reference: TimmReference, arguments: dict[str, Any], image_size: tuple[int, int] | None) -> nn.Module:
    import timm

    told: dict[str, Any] = {} if image_size is None else {SIDE_ARGUMENT: image_size}
    try:
        try:
            return _module(timm.create_model(reference.name, **arguments, **told))
        except TypeError as error:
            if image_size is None or SIDE_ARGUMENT not in str(error):
                raise
            return _module(timm.create_model(reference.name, **arguments))  # convolutional: takes any size
    except (TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        given = ", ".join(f"{name}={value}" for name, value in {**arguments, **told}.items()) or "no arguments"
        reason = str(error) or type(error).__name__
        if image_size is not None and "size" in reason:
            reason = f"images of {image_size[0]} x {image_size[1]} pixels do not suit it: {reason}"
        raise UsageError(
            f"timm model `{reference.name}` cannot be made with {given}: {reason}",
            hint="leave the image size out, or take a multiple of the model's patches and windows"
            if told
            else "see the constructor of the model's class in timm",
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
    except (RuntimeError, NotImplementedError, UsageError):  # it computes with its own tensors while it is built
        return build()
