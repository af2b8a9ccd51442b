"""Progressive tokenisation: training on large patches first, which is cheap, and on the network's own patches last.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921: of 300 epochs 80
on patches four times as far apart, 52 on twice as far, the rest on the network's own, with the same weights. How the
blocks change is the space's matter, see `SearchSpace.coarse_blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from search_spaces import Architecture, SearchSpace


@dataclass(frozen=True)
class Phase:
    """A part of a training.

    Attributes:
        start: Share of the training that is done when it begins.
        patch_stride: Factor by which its patches are further apart than the network's own.
    """

    start: float
    patch_stride: int


WHOLE = (Phase(0.0, 1),)
PROGRESSIVE = (Phase(0.0, 4), Phase(80 / 300, 2), Phase(132 / 300, 1))


@dataclass(frozen=True)
class PhaseCost:
    """What an image costs in one phase.

    Attributes:
        start: Share of the training that is done when the phase begins.
        end: Share of the training that is done when the phase ends.
        patch_stride: Factor by which patches are further apart than the network's own.
        macs: Multiply-accumulates of an image.
        share: Multiply-accumulates as a share of those in the last phase.
    """

    start: float
    end: float
    patch_stride: int
    macs: int
    share: float


def training_phases(is_progressive: bool) -> tuple[Phase, ...]:
    """The phases of a training, in order; the last one is on the network's own patches."""
    return PROGRESSIVE if is_progressive else WHOLE


def phase_at(phases: Sequence[Phase], progress: float) -> int:
    """Index of the phase that a training is in when ``progress`` of it, in [0, 1], is done."""
    return max(index for index, phase in enumerate(phases) if phase.start <= progress)


def mean_of_rest(phases: Sequence[Phase], values: Sequence[float], progress: float) -> float:
    """The mean over the rest of a training, from ``progress`` on, of something with one value in each phase."""
    spans = [max(0.0, end - max(start, progress)) for start, end in _bounds(phases)]
    rest = sum(spans)
    return sum(span * value for span, value in zip(spans, values, strict=True)) / rest if rest else values[-1]


def phase_costs(space: SearchSpace, architecture: Architecture, phases: Sequence[Phase]) -> list[PhaseCost]:
    """What an image costs in each phase.

    Raises:
        SearchSpaceError: The space has no patch embedding whose stride can change.
    """
    macs = [space.lower(architecture, phase.patch_stride).macs for phase in phases]
    return [
        PhaseCost(start, end, phase.patch_stride, count, count / macs[-1])
        for (start, end), phase, count in zip(_bounds(phases), phases, macs, strict=True)
    ]


def _bounds(phases: Sequence[Phase]) -> Iterator[tuple[float, float]]:
    return pairwise([*(phase.start for phase in phases), 1.0])
