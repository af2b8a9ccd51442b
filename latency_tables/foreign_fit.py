"""How well a measured table predicts networks of other groups: each family in it, by a fit that has not seen it.

Held-out networks of the fitted groups say nothing of that. Families are groups of networks, and within a group of many
kinds the kinds (`broad/windows-5` is of family `broad/windows`). Legend of array suffixes: n networks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from latency_tables.evidence import Evidence
from latency_tables.local_fit import BYTES_PER_ELEMENT, FEWEST_NETWORKS, Observation, fit_local
from latency_tables.predictor import KernelPrices, kernel_totals
from latency_tables.table_validation import Interval

FEWEST_FAMILIES = 3
"""Families with networks inside the evidence of the others below which these do not tell."""


def family_of(name: str) -> str:
    """The family of a measured network: its name without the number."""
    return re.sub(r"[-/]?\d+$", "", name)


def foreign_interval(observations: Sequence[Observation], own: Interval) -> Interval | None:
    """Residuals that hold for networks of every family, each predicted without it; None where too few families tell.

    Networks that the other families are no evidence for do not count, since a table predicts nothing of such ones.

    Args:
        observations: Measured networks.
        own: Residuals of held-out networks of the fitted groups, which are the least.
    """
    found = [residuals for residuals in _families(observations) if residuals]
    if len(found) < FEWEST_FAMILIES:
        return None
    low_n, high_n = np.array([pair for residuals in found for pair in residuals]).T
    low, high = (min(float(low_n.min()), own.low), max(float(high_n.max()), own.high))
    return Interval(low=low, high=high, coverage=own.coverage)


def _families(observations: Sequence[Observation]) -> Iterator[list[tuple[float, float]]]:
    """By family, the residuals of its networks that are inside: against the low and the high end of their kernels."""
    families = [family_of(observation.name) for observation in observations]
    for family in dict.fromkeys(families):
        pairs = list(zip(families, observations, strict=True))
        others = [observation for name, observation in pairs if name != family]
        if len(others) < FEWEST_NETWORKS:
            continue
        fit, macs = fit_local(others), [observation.macs for observation in others]
        prices = KernelPrices(fit.rooflines, fit.kernels, BYTES_PER_ELEMENT)
        evidence = Evidence({}, min(macs), max(macs))
        residuals = []
        for observation in [each for name, each in pairs if name == family]:
            _, low, high, *work = np.array(kernel_totals(observation.kernels, prices))
            if not evidence.is_outside("", high, work[1], work[0], work[2]):
                ends = (fit.scale * end + fit.overhead_ms for end in (low, high))
                low_residual, high_residual = (observation.measured_ms / end - 1 for end in ends)
                residuals.append((float(low_residual), float(high_residual)))
        yield residuals
