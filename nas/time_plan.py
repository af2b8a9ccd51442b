"""How the time of a search is divided between training, searching and exporting."""

from __future__ import annotations

from dataclasses import dataclass

SEARCH_SHARE = 0.1
DELIVERY_SHARE = 0.06
"""Of a budget that is also to train: training takes what these, and the building of a latency table, leave over."""
CUT_SHORT = 0.75
"""Share of its usual time below which a training is worth a warning."""


@dataclass(frozen=True)
class TimePlan:
    """Seconds for each part; None for a part that time does not bound or that there is not."""

    training_seconds: float | None
    search_seconds: float | None

    @classmethod
    def of(cls, total: float | None, spent: float, *, trains: bool, exports: bool) -> TimePlan:
        """Divide ``total`` seconds; None for a search that time does not bound.

        Args:
            spent: Seconds that latency tables and the like have taken already. Training and search get a tenth of the
                total each, however much that is.
            trains: Whether there is a supernet to train.
            exports: Whether a network is exported and judged in the end.
        """
        if total is None:
            return cls(None, None)
        delivery = DELIVERY_SHARE * total if exports else 0.0
        rest = max(total - delivery - spent, 2 * SEARCH_SHARE * total)
        if not trains:
            return cls(None, rest)
        return cls(rest - SEARCH_SHARE * total, SEARCH_SHARE * total)

    def is_cut_short(self, usual: TimePlan) -> bool:
        """Whether training gets much less than in a plan with nothing spent before."""
        if self.training_seconds is None or usual.training_seconds is None:
            return False
        return self.training_seconds < CUT_SHORT * usual.training_seconds
