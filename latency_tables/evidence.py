"""What a table has evidence for: networks made of kernels like those that it was made from, and of about their sizes.

Elsewhere a sum of priced kernels is no estimate. A table of small networks prices large matrices by what small ones
cost, and caches that hold all of a small network hold nothing of a large one: a network of 1.1 G MACs was predicted to
take 3.1 ms by a table of networks of 0.1 to 0.5 ms, and took 27. Legend of array suffixes: n networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from latency_tables.table import LatencyTable
from latency_tables.table_validation import Interval, ValidationRow

if TYPE_CHECKING:
    from search_spaces.space import SearchSpace

Array = npt.NDArray[np.float64]

UNSEEN_SHARE = 0.25
"""Share of a network's time, at the upper end, or of its MACs, that may be in kernels unlike those of the table."""
SIZE_FACTOR = 4.0
"""How many times smaller than the table's smallest network, or larger than its largest, a network's MACs may be."""
COVERAGE = 0.9
FEWEST_OF_A_GROUP = 6
"""Held-out networks from which on a group of a table has an interval of its own."""
UNCHECKED = Interval(low=-0.4, high=0.6, coverage=0.9)
"""Residuals of networks of other groups, for tables whose own groups do not tell: see `Evidence.interval`."""


@dataclass(frozen=True)
class Evidence:
    """What networks a table knows.

    Attributes:
        groups: Groups of networks that it was fitted to, each with a number of networks; none for calibrated tables.
        fewest_macs: MACs of the smallest network; most_macs of the largest.
    """

    groups: dict[str, int]
    fewest_macs: int
    most_macs: int
    _own: Mapping[str, Interval] = field(default_factory=dict)
    _others: Interval = UNCHECKED

    @classmethod
    def of(cls, table: LatencyTable) -> Evidence:
        """The evidence of a table, as its validation lists it."""
        macs = [row.macs for row in table.validation.rows] or [0]
        groups: dict[str, list[ValidationRow]] = {}
        if table.provenance.kind == "measured":
            for row in sorted(table.validation.rows, key=lambda row: row.network.partition("/")[0]):
                groups.setdefault(row.network.partition("/")[0], []).append(row)
        own = {name: table.interval for name in groups}
        if len(groups) > 1:
            own |= {name: held_out_interval(rows) for name, rows in groups.items() if len(rows) >= FEWEST_OF_A_GROUP}
        others = table.foreign_interval or (UNCHECKED if groups else table.interval)
        return cls({name: len(rows) for name, rows in groups.items()}, min(macs), max(macs), own, others)

    def interval(self, group: str) -> Interval:
        """Residuals to expect of a network: those of the group's own held-out networks, and wider ones elsewhere."""
        return self._own.get(group, self._others)

    def is_outside(
        self, group: str, high_n: Array, unseen_high_n: Array, macs_n: Array, unseen_macs_n: Array
    ) -> npt.NDArray[np.bool_]:
        """Which networks are unlike those of the table, ``[n]``; none of a group that it was fitted to.

        Args:
            group: The networks' group.
            high_n: Upper end of the time of all kernels.
            unseen_high_n: The same of kernels without evidence.
            macs_n: Multiply-accumulates of all kernels.
            unseen_macs_n: The same of kernels without evidence.
        """
        size = (macs_n * SIZE_FACTOR < self.fewest_macs) | (macs_n > SIZE_FACTOR * self.most_macs)
        unseen = (unseen_high_n > UNSEEN_SHARE * high_n) | (unseen_macs_n > UNSEEN_SHARE * macs_n)
        return np.asarray((size | unseen) & (group not in self.groups))


def held_out_interval(rows: Sequence[ValidationRow]) -> Interval:
    """The interval for a new network among held-out ones: the rank of the quantile is rounded outwards."""
    residuals = sorted(row.measured_ms / row.predicted_ms - 1 for row in rows)
    position = max(int((len(residuals) + 1) * (1 - COVERAGE) / 2) - 1, 0)
    return Interval(low=residuals[position], high=residuals[-1 - position], coverage=COVERAGE)


def group_of(space: SearchSpace) -> str:
    """The group that a space's networks are sampled from: its name, without what changes no kernel of them.

    The networks of PreNAS's lists have the kernels of AutoFormer's, and may be too few to learn from.
    """
    from search_spaces.autoformer import PrenasSpace
    from search_spaces.timm_models import PREFIX, TimmSpace

    if isinstance(space, PrenasSpace):
        return space.name.replace("prenas", "autoformer")
    return f"{PREFIX}:{space.outline.reference.model}" if isinstance(space, TimmSpace) else space.name
