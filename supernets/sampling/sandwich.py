"""The largest network, the smallest and some between."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces import SearchSpace
from supernets.sampling.policy import Assignment, StatelessPolicy, draw


@dataclass(frozen=True)
class SandwichPolicy(StatelessPolicy):
    """The largest architecture on labels; the smallest and drawn ones on the soft outputs of the largest.

    Source: sandwich rule of Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques",
    ICCV 2019, arXiv 1903.05134; with two drawn architectures as in BigNAS, ECCV 2020, arXiv 2003.11142.
    """

    drawn: int = 2

    def assignments(self, space: SearchSpace, seed: int, step: int) -> tuple[Assignment, ...]:
        """The largest, the smallest, then the drawn architectures."""
        others = (space.smallest, *draw(space, self.drawn, seed, step))
        return (Assignment(space.largest, "labels"), *(Assignment(other, "first") for other in others))
