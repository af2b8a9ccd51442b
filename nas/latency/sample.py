"""A network to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from search_spaces.graph import OpGraph

if TYPE_CHECKING:
    from torch import nn

BROAD = "broad"
"""Name of the group of many kinds of networks, so that a table has evidence for any model."""
SMALLEST_BROAD_MACS, LARGEST_BROAD_MACS = 5_000_000, 5_000_000_000
PROBES = "probes"
"""Name of the group of small networks that mix operators which no space of ours uses."""


@dataclass(frozen=True)
class Sample:
    """A network to measure.

    Attributes:
        name: ``group/number``.
        build: Gives a freshly initialised module on the default device.
        lower: Gives its op graph, which whoever writes files does not need.
        image_side: Side of the image that it computes on, in pixels.
    """

    name: str
    build: Callable[[], nn.Module]
    lower: Callable[[], OpGraph]
    image_side: int

    @cached_property
    def graph(self) -> OpGraph:
        """Its op graph."""
        return self.lower()
