"""A network to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search_spaces.graph import OpGraph

if TYPE_CHECKING:
    from torch import nn

PROBES = "probes"
"""Name of the group of small networks that mix operators which no space of ours uses."""


@dataclass(frozen=True)
class Sample:
    """A network to measure.

    Attributes:
        name: ``group/number``.
        build: Gives a freshly initialised module on the default device.
        graph: Its op graph.
        image_side: Side of the image that it computes on, in pixels.
    """

    name: str
    build: Callable[[], nn.Module]
    graph: OpGraph
    image_side: int
