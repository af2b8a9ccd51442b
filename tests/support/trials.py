"""Trials of the small space, as a run folder records them."""

from __future__ import annotations

import numpy as np

from latency_tables.predictor import Latency
from nas.records.trial import State, Trial
from search_spaces import get_space

SPACE = get_space("elastic-mini")


def make_trial(number: int) -> Trial:
    genotype = SPACE.sample(1, np.random.default_rng(number))
    return Trial(
        number=number,
        state=State.DONE,
        reason="",
        architecture=SPACE.decode(genotype)[0],
        genotype=tuple(genotype[0].tolist()),
        costs={"params": 10, "macs": 20},
        latency={"pixel6": Latency(1.5, 1.25, 1.0 / 3.0 + 2, "calibrated", True)},
        objectives={"accuracy": 0.1 + 0.2},
        scores={"cross_entropy": 2.5},
        seconds=0.5,
    )
