"""What a score is, and what taking one of a network gives."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

from nas.objectives.quantities import Quantity
from nas.scores.untrained import UntrainedNetwork


@dataclass(frozen=True)
class Score:
    """A number from an untrained network; higher is better, always.

    Attributes:
        name: What users type, for example ``length-distortion``.
        function: Gives the score of a network; the same seed gives the same number. It raises, or gives a number that
            is not finite, where it cannot handle the network.
        source: Where it was published, in a few words.
        is_free: Whether the op graph alone decides it: no weights, no seed, no time.
        quantity: The quantity that it is, for scores that are one; whole populations are then scored at once.
    """

    name: str
    function: Callable[[UntrainedNetwork], float]
    source: str = ""
    is_free: bool = False
    quantity: Quantity | None = None

    @classmethod
    def of_quantity(cls, quantity: Quantity) -> Score:
        """A quantity as a score: the more of it, the better."""
        return cls(
            quantity.name,
            lambda network: float(quantity.graph(network.graph)),
            quantity.description,
            is_free=True,
            quantity=quantity,
        )

    @property
    def key(self) -> str:
        """The name under which results are recorded, for example ``length_distortion``."""
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class ScoreResult:
    """A score of one network.

    Attributes:
        name: Name of the score.
        value: Mean over the repeats; NaN where the score failed.
        repeats: One value per seed; a single one where the score does not depend on it.
        seconds: CPU time of all repeats as if the score had been taken alone: passes that it shares with others count
            in full.
        failure: Why there is no value, with the layer where one is known; empty where there is one.
    """

    name: str
    value: float
    repeats: tuple[float, ...]
    seconds: float
    failure: str = ""

    @property
    def spread(self) -> float:
        """Standard deviation over the repeats; NaN below two."""
        return statistics.stdev(self.repeats) if len(self.repeats) > 1 else math.nan
