"""Networks one choice away from others, remembered.

Legend of array suffixes: n genotypes, c choices.
"""

from __future__ import annotations

import numpy as np

from nas.controllers.proposals import distinct, row_keys
from nas.objectives.bounds import one_choice_changes
from nas.objectives.problem import SearchProblem
from search_spaces import Genotypes


class Neighbourhoods:
    """The neighbours of networks: one choice changed, then the space's rules applied, and within all bounds.

    Args:
        problem: Whose space and bounds count.
    """

    def __init__(self, problem: SearchProblem) -> None:
        self._problem = problem
        self._known: dict[bytes, Genotypes] = {}

    def of(self, genotypes: Genotypes) -> list[Genotypes]:
        """The distinct neighbours ``[n, c]`` of each row ``[c]``; only those rows stay remembered."""
        keys = row_keys(genotypes)
        is_new_n = np.array([key not in self._known for key in keys], dtype=np.bool_)
        found = {key: self._known[key] for key in keys if key in self._known}
        if is_new_n.any():
            new_keys = [key for key, is_new in zip(keys, is_new_n, strict=True) if is_new]
            found |= dict(zip(new_keys, self._look_around(genotypes[is_new_n]), strict=True))
        self._known = found
        return [found[key] for key in keys]

    def _look_around(self, genotypes: Genotypes) -> list[Genotypes]:
        # All rows together: repair and bounds cost as much for one.
        space = self._problem.space
        changed = space.repair(one_choice_changes(space, genotypes))
        is_within = (self._problem.excess(changed) <= 0).reshape(-1, len(genotypes))
        changed = changed.reshape(-1, len(genotypes), len(space.choices))
        return [distinct(changed[is_within[:, position], position]) for position in range(len(genotypes))]
