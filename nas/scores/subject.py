"""What a score is taken of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nas.networks.named import NamedNetwork
from search_spaces.graph import OpGraph

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ScoreSubject:
    """A network to be scored.

    Attributes:
        name: What it is called in messages.
        build: Makes a freshly initialised network on the current default device; called once per repeat. None where
            there is no module, for example for an ONNX file: only scores of the op graph are possible then.
        input_shape: ``(3, height, width)``.
        graph: Gives the op graph.
    """

    name: str
    build: Callable[[], nn.Module] | None
    input_shape: tuple[int, int, int]
    graph: Callable[[], OpGraph]

    @classmethod
    def of(cls, network: NamedNetwork) -> ScoreSubject:
        """The same network as a subject."""
        return cls(network.name, network.build, network.input_shape, network.graph)
