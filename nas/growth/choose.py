"""Which candidate of a step is taken: As-ViT's ranks of both metrics.

Source: Chen et al., "Auto-scaling Vision Transformers without Training", ICLR 2022, arXiv 2202.11921.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nas.objectives.ranks import rank_sums

TIE_RULES = ("published", "sensible")


def best_candidate(
    ntk_n: npt.NDArray[np.float64], length_distortion_n: npt.NDArray[np.float64], ties: str = "published"
) -> int:
    """The position of the candidate with the smallest sum of dense ranks.

    Args:
        ntk_n: Condition numbers of the tangent kernels, smaller is better.
        length_distortion_n: Length distortions, larger is better.
        ties: ``published``: of the first two tied candidates, the one with the smaller value of the metric with the
            larger relative range over all candidates; for length distortion that is the worse one. ``sensible``: of
            all tied candidates the one with the largest length distortion.
    """
    sums_n = rank_sums(ntk_n, length_distortion_n)
    tied = np.flatnonzero(sums_n == sums_n.min())
    if len(tied) == 1:
        return int(tied[0])
    if ties == "sensible":
        return int(tied[np.argmax(length_distortion_n[tied])])
    ranges = [(values_n.max() - values_n.min()) / values_n.max() for values_n in (ntk_n, length_distortion_n)]
    deciding_n = ntk_n if ranges[0] >= ranges[1] else length_distortion_n
    return int(tied[:2][np.argmin(deciding_n[tied[:2]])])
