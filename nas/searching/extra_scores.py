"""Numbers worth seeing beside a front that was found by size alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from nas.errors import EvaluationError
from nas.events import Progress, StageProgress
from nas.records.trial import Trial
from search_spaces import SearchSpace

MEMBERS = 8
REPEATS = 1
KEY = "length_distortion"


def with_length_distortion(
    space: SearchSpace, front: Sequence[Trial], seed: int, progress: Progress, members: int = MEMBERS
) -> list[Trial]:
    """The front with As-ViT's length distortion among the scores of up to ``members`` networks, spread evenly over it.

    A network that cannot be scored, or whose score is not finite, gets NaN.
    """
    from nas.scores.length_distortion import score_architecture

    annotated = list(front)
    for done, position in enumerate(spread(len(front), members)):
        progress(StageProgress("length distortion of the front", done, min(members, len(front))))
        trial = front[position]
        try:
            score = score_architecture(space, trial.architecture, seed, repeats=REPEATS)
        except EvaluationError:
            score = math.nan
        annotated[position] = replace(trial, scores={**trial.scores, KEY: score if math.isfinite(score) else math.nan})
    return annotated


def spread(count: int, wanted: int) -> list[int]:
    """Up to ``wanted`` positions out of ``count``, evenly spaced, both ends included."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist())) if count else []
